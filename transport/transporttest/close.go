package transporttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var closeRules = []rule{
	{"client's goodbye", "a client's goodbye reaches the server as ClosedByClient", checkClientGoodbye},
	{"server's goodbye", "a server's goodbye reaches the client as ClosedByServer", checkServerGoodbye},
	{"other reasons", "any other reason is a broken line to the peer, which can resume", checkOtherReasons},
	{"last words", "what the server sent before a goodbye or a shutdown is received", checkLastWords},
	{"close is idempotent", "Close may be called again and concurrently: Closed comes once, with the first reason", checkCloseIdempotent},
	{"closed is last", "Closed comes once, after the last Receive, and Send then returns ErrClosed", checkClosedLast},
	{"close from within", "Close may be called within Receive, and nothing is received after that", checkCloseWithinReceive},
	{"close while blocked", "Close returns while Receive runs and while the peer reads nothing", checkCloseWhileBlocked},
	{"slow reader", "a peer that leaves too much unread is cut with ErrSlowReader; Send does not wait for it, others go on", checkSlowReader},
	{"cut", "a broken line closes both ends, which can resume; the next Dial succeeds", checkCut},
	{"cut before the answer", "a line that breaks during Dial ends it with a temporary error", checkCutDial},
	{"shutdown", "a server that shuts down ends its connections so that they can be resumed, and waits for their handlers", checkShutdown},
}

func checkClientGoodbye(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	client.Close(tidemark.ClosedByClient)
	if err := server.closedFor(ctx, tidemark.ClosedByClient); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return client.closedFor(ctx, tidemark.ClosedByClient)
}

func checkServerGoodbye(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	server.Close(tidemark.ClosedByServer)
	if err := client.closedFor(ctx, tidemark.ClosedByServer); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return server.closedFor(ctx, tidemark.ClosedByServer)
}

func checkOtherReasons(ctx context.Context, b *bench) error {
	for _, reason := range []tidemark.CloseReason{tidemark.ClosedTransport, tidemark.ClosedPing, tidemark.ClosedSlowReader, tidemark.ClosedShutdown, tidemark.ClosedError} {
		for _, byServer := range []bool{false, true} {
			client, server, err := b.connect(ctx)
			if err != nil {
				return err
			}
			closer, peer := client, server
			if byServer {
				closer, peer = server, client
			}
			closer.Close(reason)
			if err := closer.closedFor(ctx, reason); err != nil {
				return fmt.Errorf("own end: %w", err)
			}
			if err := peer.closedResumable(ctx); err != nil {
				return fmt.Errorf("peer after %q: %w", reason, err)
			}
		}
	}
	return nil
}

// checkLastWords has the client's handler held up, so that there is something to lose.
func checkLastWords(ctx context.Context, b *bench) error {
	const words = 200
	for _, reason := range []tidemark.CloseReason{tidemark.ClosedByServer, tidemark.ClosedShutdown} {
		atClient, release := held()
		defer release()
		_, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, atClient, newObserver())
		if err != nil {
			return err
		}
		for i := range words {
			if err := server.Send(numbered("e", i)); err != nil {
				return err
			}
		}
		server.Close(reason)
		release()
		if _, err := atClient.received(ctx, words); err != nil {
			return fmt.Errorf("before %q: %w", reason, err)
		}
		if _, err := atClient.closed(ctx); err != nil {
			return err
		}
		if err := server.closedFor(ctx, reason); err != nil {
			return fmt.Errorf("own end: %w", err)
		}
	}
	return nil
}

func checkCloseIdempotent(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	client.Close(tidemark.ClosedError)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			client.Close(tidemark.ClosedByClient)
			server.Close(tidemark.ClosedTransport)
		})
	}
	wg.Wait()
	if err := client.closedFor(ctx, tidemark.ClosedError); err != nil {
		return err
	}
	if err := server.closedResumable(ctx); err != nil {
		return err
	}
	client.Close(tidemark.ClosedByClient)
	server.Close(tidemark.ClosedByServer)
	if _, _, err := b.connect(ctx); err != nil { // time for a second Closed
		return err
	}
	return errors.Join(client.closedFor(ctx, tidemark.ClosedError), server.closedResumable(ctx))
}

func checkClosedLast(ctx context.Context, b *bench) error {
	atServer, release := held()
	defer release()
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, newObserver(), atServer)
	if err != nil {
		return err
	}
	for i := range 200 {
		if err := client.Send(numbered("e", i)); err != nil {
			return err
		}
	}
	client.Close(tidemark.ClosedByClient)
	if err := b.pass(ctx); err != nil { // time for Closed to come too early
		return err
	}
	release()
	for _, e := range []end{server, client} { // the observers complain of anything after Closed
		if _, err := e.closed(ctx); err != nil {
			return err
		}
		if err := e.Send(numbered("late", 0)); !errors.Is(err, tidemark.ErrClosed) {
			return fmt.Errorf("Send after Closed returned %v", err)
		}
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for i, m := range server.messages {
		if want := fmt.Sprintf("e%d", i); m.Event != want {
			return fmt.Errorf("message %d before the end is %s, want %s", i, m.Event, want)
		}
	}
	return nil
}

// pass lets something else happen, so that what comes too early has the time to.
func (b *bench) pass(ctx context.Context) error {
	if b.settle != nil {
		b.settle()
		return nil
	}
	for range 3 {
		client, server, err := b.connect(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(sendAll(ctx, client, server, 50), sendAll(ctx, server, client, 50)); err != nil {
			return err
		}
	}
	return nil
}

func checkCloseWithinReceive(ctx context.Context, b *bench) error {
	atServer := newObserver()
	var conn tidemark.Conn
	ready := make(chan struct{})
	release := sync.OnceFunc(func() { close(ready) })
	defer release()
	atServer.onReceive = func(*tidemark.Message) {
		<-ready
		conn.Close(tidemark.ClosedTransport)
	}
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, newObserver(), atServer)
	if err != nil {
		return err
	}
	conn = server.Conn
	for i := range 5 {
		if err := client.Send(numbered("e", i)); err != nil {
			return err
		}
	}
	release()
	if err := server.closedFor(ctx, tidemark.ClosedTransport); err != nil {
		return err
	}
	if _, err := server.received(ctx, 1); err != nil {
		return fmt.Errorf("after Close: %w", err)
	}
	return client.closedResumable(ctx)
}

// flood sends until the connection has had enough.
func flood(e end, bytes int) error {
	m, err := tidemark.NewEvent("flood", strings.Repeat("x", 64<<10))
	if err != nil {
		return err
	}
	for range bytes / (64 << 10) {
		if err := e.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// unread is more than any transport and any network keep for a reader.
func (b *bench) unread() int { return b.QueueBytes + 256<<20 }

func checkCloseWhileBlocked(ctx context.Context, b *bench) error {
	atClient, release := held()
	defer release()
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, atClient, newObserver())
	if err != nil {
		return err
	}
	if err := flood(server, b.QueueBytes/2); err != nil {
		return err
	}
	select {
	case <-atClient.entered:
	case <-ctx.Done():
		return fmt.Errorf("nothing arrived")
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		client.Close(tidemark.ClosedTransport)
		server.Close(tidemark.ClosedTransport)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		return fmt.Errorf("Close waits")
	}
	if err := server.closedFor(ctx, tidemark.ClosedTransport); err != nil {
		return err
	}
	if err := b.pass(ctx); err != nil {
		return err
	}
	release() // the observer complains if Closed has come
	return client.closedFor(ctx, tidemark.ClosedTransport)
}

func checkSlowReader(ctx context.Context, b *bench) error {
	atClient, release := held()
	defer release()
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, atClient, newObserver())
	if err != nil {
		return err
	}
	other, otherServer, err := b.connect(ctx)
	if err != nil {
		return err
	}
	flooded := make(chan error, 1)
	go func() { flooded <- flood(server, b.unread()) }()
	select {
	case err := <-flooded:
		if !errors.Is(err, tidemark.ErrSlowReader) {
			return fmt.Errorf("Send to a peer that does not read returned %v", err)
		}
	case <-ctx.Done():
		return fmt.Errorf("Send waits for the peer")
	}
	if err := server.closedFor(ctx, tidemark.ClosedSlowReader); err != nil {
		return err
	}
	if err := server.Send(numbered("late", 0)); !errors.Is(err, tidemark.ErrClosed) {
		return fmt.Errorf("Send after ErrSlowReader returned %v", err)
	}
	if err := sendAll(ctx, otherServer, other, 50); err != nil {
		return fmt.Errorf("another connection: %w", err)
	}
	release()
	return client.closedResumable(ctx)
}

func checkCut(ctx context.Context, b *bench) error {
	if b.Cut == nil {
		return errLeftOut
	}
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	if err := sendAll(ctx, client, server, 3); err != nil {
		return err
	}
	b.Cut()
	if err := errors.Join(client.closedResumable(ctx), server.closedResumable(ctx)); err != nil {
		return err
	}
	client, server, err = b.connect(ctx)
	if err != nil {
		return fmt.Errorf("after the cut: %w", err)
	}
	return sendAll(ctx, client, server, 3)
}

func checkCutDial(ctx context.Context, b *bench) error {
	if b.Cut == nil {
		return errLeftOut
	}
	h := newObserver()
	d := b.dial(ctx, tidemark.Hello{}, h)
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	b.Cut()
	r, err := d.wait(ctx)
	if err != nil {
		return err
	}
	if r.err == nil || !tidemark.Temporary(r.err) {
		return fmt.Errorf("Dial returned %v", r.err)
	}
	select {
	case <-o.ctx.Done():
		return h.untouched()
	case <-ctx.Done():
		return fmt.Errorf("the offer's ctx goes on")
	}
}

func checkShutdown(ctx context.Context, b *bench) error {
	if b.Shutdown == nil {
		return errLeftOut
	}
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	if err := server.Send(numbered("last", 0)); err != nil {
		return err
	}
	b.Shutdown()
	if _, err := client.received(ctx, 1); err != nil {
		return fmt.Errorf("what was sent before the shutdown: %w", err)
	}
	server.mu.Lock()
	reasons := server.reasons
	server.mu.Unlock()
	if len(reasons) != 1 || reasons[0] != tidemark.ClosedShutdown {
		return fmt.Errorf("after the shutdown the server's end was closed for %v", reasons)
	}
	if err := client.closedResumable(ctx); err != nil {
		return err
	}
	r, err := b.dial(ctx, tidemark.Hello{}, newObserver()).wait(ctx)
	if err == nil && r.err == nil {
		err = fmt.Errorf("a server that was shut down accepted a connection")
	}
	return err
}
