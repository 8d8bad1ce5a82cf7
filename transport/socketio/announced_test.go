package socketio_test

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

type acceptAll struct{}

func (acceptAll) Offer(_ context.Context, o tidemark.Offer) {
	_, _ = o.Accept(tidemark.Welcome{ID: "id"}, deaf{})
}

type deaf struct{}

func (deaf) Receive(*tidemark.Message)   {}
func (deaf) Closed(tidemark.CloseReason) {}

func TestTheDialerTellsWhatTheServerAnnounces(t *testing.T) {
	t.Parallel()
	h := socketio.NewHandler(acceptAll{}, &socketio.Options{MaxMessageBytes: 1_234_567})
	web := httptest.NewServer(h)
	defer web.Close()
	defer h.Close()
	conn, w, err := socketio.NewDialer(web.URL, nil).Dial(t.Context(), tidemark.Hello{}, deaf{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(tidemark.ClosedByClient)
	if w.MaxMessage != 1_234_567 {
		t.Errorf("got %d, want 1234567", w.MaxMessage)
	}
}
