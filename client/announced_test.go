package client_test

import (
	"context"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// announcing is a dialer to a server that says how large a message it takes.
type announcing struct {
	tidemark.Dialer
	bytes int
}

func (a announcing) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := a.Dialer.Dial(ctx, hello, h)
	w.MaxMessage = a.bytes
	return conn, w, err
}

func TestMessagesAreAsLargeAsTheServerAnnounces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		announced, option, size int
		want                    tidemark.Code
	}{
		{0, 0, 890_000, tidemark.CodeMissingService},
		{0, 0, 910_000, tidemark.CodeTooLarge},
		{2_000_000, 0, 1_790_000, tidemark.CodeMissingService},
		{2_000_000, 0, 1_810_000, tidemark.CodeTooLarge},
		{10_000, 0, 9_500, tidemark.CodeTooLarge},
		{2_000_000, 5_000, 6_000, tidemark.CodeTooLarge},
	} {
		srv, err := server.New(drivermemory.New(), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := pipe.New(srv, nil)
		online := make(chan struct{}, 1)
		cl, err := client.Open(t.Context(), memory.New(), announcing{p, c.announced}, &client.Options{MaxMessage: c.option, Offline: true})
		if err != nil {
			t.Fatal(err)
		}
		cl.OnConnect(func() { online <- struct{}{} })
		cl.GoOnline()
		<-online
		_, err = cl.Call(t.Context(), "nobody", "nothing", strings.Repeat("x", c.size))
		if got := tidemark.CodeOf(err); got != c.want {
			t.Errorf("announced %d, option %d, a call of %d bytes: got %v, want %s", c.announced, c.option, c.size, err, c.want)
		}
		cl.Close()
		p.Close()
		srv.Close()
	}
}
