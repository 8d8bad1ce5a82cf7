package socketio_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// greeter accepts every connection and greets it; a Tidemark server takes its place.
type greeter struct{}

func (g *greeter) Offer(_ context.Context, offer tidemark.Offer) {
	conn, err := offer.Accept(tidemark.Welcome{ID: "1"}, g)
	if err != nil {
		return
	}
	hello, err := tidemark.NewEvent("hello", "world")
	if err != nil {
		log.Fatal(err)
	}
	_ = conn.Send(hello)
}

func (g *greeter) Receive(*tidemark.Message) {}

func (g *greeter) Closed(tidemark.CloseReason) {}

// printer is a client's handler that prints the first message.
type printer struct{ printed chan struct{} }

func (p printer) Receive(m *tidemark.Message) {
	fmt.Println(m.Event, string(m.Args[0]))
	close(p.printed)
}

func (p printer) Closed(tidemark.CloseReason) {}

// A handler is mounted in the application's HTTP server, and any Socket.IO client connects to it.
func Example() {
	handler := socketio.NewHandler(&greeter{}, nil)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", handler)
	web := httptest.NewServer(mux)
	defer web.Close()
	defer handler.Close()

	p := printer{printed: make(chan struct{})}
	conn, welcome, err := socketio.NewDialer(web.URL, nil).Dial(context.Background(), tidemark.Hello{}, p)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("connected as", welcome.ID)
	<-p.printed
	conn.Close(tidemark.ClosedByClient)
	// Unordered output:
	// connected as 1
	// hello "world"
}
