package transporttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var connectRules = []rule{
	{"hello", "the acceptor sees what the client said", checkHello},
	{"welcome", "the client sees what the server answered", checkWelcome},
	{"refuse", "a refused Dial returns the server's error with code and message; no handler is called", checkRefuse},
	{"late accept", "an offer may be answered after Offer has returned", checkLateAccept},
	{"one answer", "an offer that was answered cannot be accepted again", checkOneAnswer},
	{"replay", "the messages of Replay come first, then what is sent, with nothing lost", checkReplay},
	{"big replay", "a replay beyond the queue's bound does not make a client slow", checkBigReplay},
	{"receive after dial", "nothing is received within Dial: a Receive that waits does not hold it up", checkReceiveAfterDial},
	{"dial that ends", "the end of ctx ends Dial, and the offer: its ctx ends, and Accept returns ErrClosed", checkDialEnds},
	{"dial that has ended", "Dial with an ended ctx returns its error", checkDialEnded},
	{"ctx outlives dial", "the end of Dial's ctx after Dial does not end the connection", checkContextAfterDial},
	{"offer's ctx", "the offer's ctx ends with the connection, and not before", checkOfferContext},
	{"many at once", "offers come concurrently: one that waits does not hold up another", checkManyAtOnce},
}

func checkHello(ctx context.Context, b *bench) error {
	for _, hello := range []tidemark.Hello{
		{},
		{Auth: json.RawMessage(`{"token":"a \" é","n":[1,{"x":null}]}`)},
		{Session: "private", Offset: "at 12"},
		{Auth: json.RawMessage(`{"token":"x"}`), Session: "private", Offset: ""},
	} {
		b.dial(ctx, hello, newObserver())
		o, err := b.offer(ctx)
		if err != nil {
			return err
		}
		got := o.Hello()
		if string(got.Auth) != string(hello.Auth) || got.Session != hello.Session || got.Offset != hello.Offset {
			return fmt.Errorf("Hello arrived as auth %s session %q offset %q", got.Auth, got.Session, got.Offset)
		}
		o.Refuse(tidemark.NewError(tidemark.CodeDenied, "enough"))
	}
	return nil
}

func checkWelcome(ctx context.Context, b *bench) error {
	for _, w := range []tidemark.Welcome{{ID: "a \"b\" é"}, {ID: "x", Session: "private"}} {
		d := b.dial(ctx, tidemark.Hello{}, newObserver())
		o, err := b.offer(ctx)
		if err != nil {
			return err
		}
		if _, err := b.accept(o, w, newObserver()); err != nil {
			return err
		}
		r, err := d.wait(ctx)
		if err != nil {
			return err
		}
		if r.err != nil || r.welcome.ID != w.ID || r.welcome.Session != w.Session || r.welcome.Replay != nil {
			return fmt.Errorf("Dial returned %+v, %v", r.welcome, r.err)
		}
	}
	return nil
}

func checkRefuse(ctx context.Context, b *bench) error {
	h := newObserver()
	d := b.dial(ctx, tidemark.Hello{}, h)
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	o.Refuse(tidemark.Wrap(errors.New("secret"), tidemark.CodeUnauthenticated, "who are \"you\"?"))
	r, err := d.wait(ctx)
	if err != nil {
		return err
	}
	var refused *tidemark.Error
	if !errors.As(r.err, &refused) || refused.Code != tidemark.CodeUnauthenticated || refused.Message != "who are \"you\"?" {
		return fmt.Errorf("Dial returned %v", r.err)
	}
	if errors.Unwrap(refused) != nil {
		return fmt.Errorf("the cause left the server: %v", refused)
	}
	if _, _, err := b.connect(ctx); err != nil {
		return fmt.Errorf("another Dial after a refusal: %w", err)
	}
	return h.untouched()
}

func checkLateAccept(ctx context.Context, b *bench) error {
	d := b.dial(ctx, tidemark.Hello{}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	select {
	case r := <-d.result:
		return fmt.Errorf("Dial returned before the answer: %v", r.err)
	default:
	}
	if _, _, err := b.connect(ctx); err != nil { // something that takes its time
		return err
	}
	server, err := b.accept(o, tidemark.Welcome{ID: "late"}, newObserver())
	if err != nil {
		return err
	}
	r, err := d.wait(ctx)
	if err != nil {
		return err
	}
	if r.err != nil || r.welcome.ID != "late" {
		return fmt.Errorf("Dial returned %+v, %v", r.welcome, r.err)
	}
	return sendAll(ctx, r.end, server, 3)
}

func checkOneAnswer(ctx context.Context, b *bench) error {
	d := b.dial(ctx, tidemark.Hello{}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	server, err := b.accept(o, tidemark.Welcome{ID: "first"}, newObserver())
	if err != nil {
		return err
	}
	again := newObserver()
	if _, err := o.Accept(tidemark.Welcome{ID: "second"}, again); !errors.Is(err, tidemark.ErrClosed) {
		return fmt.Errorf("the second Accept returned %v", err)
	}
	o.Refuse(tidemark.NewError(tidemark.CodeDenied, "too late"))
	r, err := d.wait(ctx)
	if err != nil || r.err != nil {
		return fmt.Errorf("Dial: %v, %v", r.err, err)
	}
	if err := sendAll(ctx, r.end, server, 3); err != nil {
		return err
	}
	return again.untouched()
}

func checkReplay(ctx context.Context, b *bench) error {
	const replayed, sent = 50, 50
	var w tidemark.Welcome
	for i := range replayed {
		w.Replay = append(w.Replay, numbered("e", i))
	}
	w.ID = "id"
	w.Replay[7].Attachments = [][]byte{{1, 2, 3}}
	d := b.dial(ctx, tidemark.Hello{Session: "s", Offset: "o"}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	server, err := b.accept(o, w, newObserver())
	if err != nil {
		return err
	}
	for i := range sent {
		if err := server.Send(numbered("e", replayed+i)); err != nil {
			return err
		}
	}
	r, err := d.wait(ctx)
	if err != nil || r.err != nil {
		return fmt.Errorf("Dial: %v, %v", r.err, err)
	}
	got, err := r.received(ctx, replayed+sent)
	if err != nil {
		return err
	}
	for i, m := range got {
		if want := fmt.Sprintf("e%d", i); m.Event != want {
			return fmt.Errorf("message %d is %s, want %s", i, m.Event, want)
		}
	}
	return nil
}

func checkBigReplay(ctx context.Context, b *bench) error {
	const sent = 50
	big, err := tidemark.NewEvent("replayed", strings.Repeat("x", b.QueueBytes/2))
	if err != nil {
		return err
	}
	w := tidemark.Welcome{ID: "id", Replay: slices.Repeat([]*tidemark.Message{big}, 32)}
	d := b.dial(ctx, tidemark.Hello{Session: "s", Offset: "o"}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	server, err := b.accept(o, w, newObserver())
	if err != nil {
		return err
	}
	for i := range sent { // while the replay is under way
		if err := server.Send(numbered("e", i)); err != nil {
			return fmt.Errorf("Send after the replay: %w", err)
		}
	}
	r, err := d.wait(ctx)
	if err != nil || r.err != nil {
		return fmt.Errorf("Dial: %v, %v", r.err, err)
	}
	_, err = r.received(ctx, len(w.Replay)+sent)
	return err
}

func checkReceiveAfterDial(ctx context.Context, b *bench) error {
	h, release := held()
	defer release()
	w := tidemark.Welcome{ID: "id", Replay: []*tidemark.Message{numbered("e", 0)}}
	_, server, err := b.connectWith(ctx, w, h, newObserver())
	if err != nil {
		return err
	}
	return server.Send(numbered("e", 1))
}

func checkDialEnds(ctx context.Context, b *bench) error {
	h := newObserver()
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := b.dial(dialCtx, tidemark.Hello{}, h)
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	cancel()
	r, err := d.wait(ctx)
	if err != nil {
		return err
	}
	if !errors.Is(r.err, context.Canceled) {
		return fmt.Errorf("Dial returned %v", r.err)
	}
	select {
	case <-o.ctx.Done():
	case <-ctx.Done():
		return fmt.Errorf("the offer's ctx goes on")
	}
	atServer := newObserver()
	if _, err := o.Accept(tidemark.Welcome{ID: "id"}, atServer); !errors.Is(err, tidemark.ErrClosed) {
		return fmt.Errorf("Accept returned %v", err)
	}
	if err := atServer.untouched(); err != nil {
		return err
	}
	return h.untouched()
}

func checkDialEnded(ctx context.Context, b *bench) error {
	h := newObserver()
	dialCtx, cancel := context.WithCancel(ctx)
	cancel()
	r, err := b.dial(dialCtx, tidemark.Hello{}, h).wait(ctx)
	if err != nil {
		return err
	}
	if !errors.Is(r.err, context.Canceled) {
		return fmt.Errorf("Dial returned %v", r.err)
	}
	return h.untouched()
}

func checkContextAfterDial(ctx context.Context, b *bench) error {
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := b.dial(dialCtx, tidemark.Hello{}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	server, err := b.accept(o, tidemark.Welcome{ID: "id"}, newObserver())
	if err != nil {
		return err
	}
	r, err := d.wait(ctx)
	if err != nil || r.err != nil {
		return fmt.Errorf("Dial: %v, %v", r.err, err)
	}
	cancel()
	if _, _, err := b.connect(ctx); err != nil { // time for an end
		return err
	}
	if err := sendAll(ctx, r.end, server, 50); err != nil {
		return err
	}
	return sendAll(ctx, server, r.end, 50)
}

func checkOfferContext(ctx context.Context, b *bench) error {
	d := b.dial(ctx, tidemark.Hello{}, newObserver())
	o, err := b.offer(ctx)
	if err != nil {
		return err
	}
	server, err := b.accept(o, tidemark.Welcome{ID: "id"}, newObserver())
	if err != nil {
		return err
	}
	r, err := d.wait(ctx)
	if err != nil || r.err != nil {
		return fmt.Errorf("Dial: %v, %v", r.err, err)
	}
	if err := sendAll(ctx, r.end, server, 3); err != nil {
		return err
	}
	if o.ctx.Err() != nil {
		return fmt.Errorf("the offer's ctx ended before the connection")
	}
	r.Close(tidemark.ClosedByClient)
	if _, err := server.closed(ctx); err != nil {
		return err
	}
	select {
	case <-o.ctx.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the offer's ctx goes on after the connection")
	}
}

func checkManyAtOnce(ctx context.Context, b *bench) error {
	const n = 8
	var waiting []offered
	var dials []dialing
	for range n {
		dials = append(dials, b.dial(ctx, tidemark.Hello{}, newObserver()))
	}
	for range n {
		o, err := b.offer(ctx)
		if err != nil {
			return err
		}
		waiting = append(waiting, o)
	}
	for _, o := range waiting {
		if _, err := b.accept(o, tidemark.Welcome{ID: "id"}, newObserver()); err != nil {
			return err
		}
	}
	for _, d := range dials {
		if r, err := d.wait(ctx); err != nil || r.err != nil {
			return fmt.Errorf("Dial: %v, %v", r.err, err)
		}
	}
	return nil
}
