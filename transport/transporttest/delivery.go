package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var deliveryRules = []rule{
	{"order", "messages arrive in the order of Send, once each, both ways", checkOrder},
	{"calls and answers", "calls and answers keep their numbers, and each direction has its own", checkCalls},
	{"arguments", "arguments arrive as they were sent, byte for byte", checkArguments},
	{"attachments", "attachments arrive with their message, whole and in order", checkAttachments},
	{"big messages", "messages of several megabytes arrive whole, also when they exceed the queue's bound", checkBig},
	{"concurrent senders", "Send may be called concurrently: all arrive, each sender's in order", checkConcurrentSenders},
	{"one message to many", "the same message may be sent on many connections", checkShared},
	{"one at a time", "Receive is not called while it runs", checkOneAtATime},
	{"answer from within", "Send may be called within Receive", checkSendWithinReceive},
	{"impossible message", "a message that cannot be sent is refused, and the connection goes on", checkImpossible},
}

func numbered(prefix string, n int) *tidemark.Message {
	m, err := tidemark.NewEvent(fmt.Sprintf("%s%d", prefix, n), n)
	if err != nil {
		panic(err) // a string and a number
	}
	return m
}

// sendAll sends n numbered events and wants them received at the other end.
func sendAll(ctx context.Context, from, to end, n int) error {
	for i := range n {
		if err := from.Send(numbered("e", i)); err != nil {
			return fmt.Errorf("Send %d: %w", i, err)
		}
	}
	ms, err := to.received(ctx, n)
	if err != nil {
		return err
	}
	for i, m := range ms {
		if want := fmt.Sprintf("e%d", i); m.Event != want {
			return fmt.Errorf("message %d is %s, want %s", i, m.Event, want)
		}
	}
	return nil
}

func checkOrder(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	if err := sendAll(ctx, client, server, 500); err != nil {
		return fmt.Errorf("client to server: %w", err)
	}
	if err := sendAll(ctx, server, client, 500); err != nil {
		return fmt.Errorf("server to client: %w", err)
	}
	return nil
}

func checkCalls(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name     string
		from, to end
	}{{"client to server", client, server}, {"server to client", server, client}} {
		if err := checkCall(ctx, way.from, way.to); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return nil
}

func checkCall(ctx context.Context, from, to end) error {
	to.mu.Lock()
	before := len(to.messages)
	to.mu.Unlock()
	for _, id := range []uint64{0, 7, 1 << 52} {
		if err := from.Send(numbered("call", 1).NewCall(id)); err != nil {
			return err
		}
		before++
		ms, err := to.received(ctx, before)
		if err != nil {
			return err
		}
		call := ms[before-1]
		if call.Kind != tidemark.CallMessage || call.ID != id || call.Event != "call1" {
			return fmt.Errorf("call %d arrived as %+v", id, describe(call))
		}
		if err := to.Send(call.NewAnswer(json.RawMessage(`{"result":1}`))); err != nil {
			return err
		}
		if err := from.await(ctx, "the answer", func() bool {
			last := len(from.messages) - 1
			return last >= 0 && from.messages[last].Kind == tidemark.AnswerMessage && from.messages[last].ID == id &&
				len(from.messages[last].Args) == 1 && string(from.messages[last].Args[0]) == `{"result":1}`
		}); err != nil {
			return err
		}
	}
	return nil
}

func describe(m *tidemark.Message) string {
	return fmt.Sprintf("kind %d id %d event %q args %s", m.Kind, m.ID, m.Event, m.Args)
}

func checkArguments(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	m := &tidemark.Message{Event: `na"me é 日本 <&>`, Args: []json.RawMessage{
		json.RawMessage(`"é \u00e9 日本 \ud83d\ude00 <&> \" \\ \n"`), json.RawMessage(`9007199254740993`), json.RawMessage(`1.50`),
		json.RawMessage(`{"b":1,"a":[null,true,{}]}`), nil, json.RawMessage(`[]`),
	}}
	none := &tidemark.Message{Event: "none"}
	for i, way := range [][2]end{{client, server}, {server, client}} {
		for _, sent := range []*tidemark.Message{m, none} {
			if err := way[0].Send(sent); err != nil {
				return err
			}
		}
		got, err := way[1].received(ctx, 2)
		if err != nil {
			return err
		}
		if got[0].Event != m.Event || len(got[0].Args) != len(m.Args) || got[1].Event != "none" || len(got[1].Args) != 0 {
			return fmt.Errorf("way %d: %s and %s", i, describe(got[0]), describe(got[1]))
		}
		for j, a := range got[0].Args {
			want := m.Args[j]
			if want == nil {
				want = json.RawMessage("null")
			}
			if !bytes.Equal(a, want) {
				return fmt.Errorf("way %d: argument %s arrived as %s", i, want, a)
			}
		}
	}
	return nil
}

func checkAttachments(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	attachments := [][]byte{{0, 1, 255}, {}, bytes.Repeat([]byte{7}, 100_000)}
	m := &tidemark.Message{Event: "binary", Attachments: attachments, Args: []json.RawMessage{
		json.RawMessage(`{"_placeholder":true,"num":0}`),
		json.RawMessage(`[{"_placeholder":true,"num":1},{"x":{"_placeholder":true,"num":2}}]`),
	}}
	answer := m.NewCall(3).NewAnswer(m.Args...)
	answer.Attachments = attachments
	for i, way := range [][2]end{{client, server}, {server, client}} {
		for _, sent := range []*tidemark.Message{m, numbered("after", 0), answer} {
			if err := way[0].Send(sent); err != nil {
				return err
			}
		}
		got, err := way[1].received(ctx, 3)
		if err != nil {
			return err
		}
		for _, j := range []int{0, 2} {
			if len(got[j].Attachments) != len(attachments) {
				return fmt.Errorf("way %d: message %d has %d attachments, want %d", i, j, len(got[j].Attachments), len(attachments))
			}
			for k, a := range got[j].Attachments {
				if !bytes.Equal(a, attachments[k]) {
					return fmt.Errorf("way %d: attachment %d of message %d is not what was sent", i, k, j)
				}
			}
		}
		if got[0].Event != "binary" || got[1].Event != "after0" || got[2].Kind != tidemark.AnswerMessage || got[2].ID != 3 {
			return fmt.Errorf("way %d: got %s, %s, %s", i, describe(got[0]), describe(got[1]), describe(got[2]))
		}
	}
	return nil
}

func checkBig(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	text := strings.Repeat("abcdefghijklmnop", b.QueueBytes/16+(4<<20)/16)
	m, err := tidemark.NewEvent("big", text)
	if err != nil {
		return err
	}
	for i, way := range [][2]end{{client, server}, {server, client}} {
		if err := way[0].Send(m); err != nil {
			return fmt.Errorf("way %d: %w", i, err)
		}
		got, err := way[1].received(ctx, 1)
		if err != nil {
			return err
		}
		if !bytes.Equal(got[0].Args[0], m.Args[0]) {
			return fmt.Errorf("way %d: %d bytes arrived of %d, or others", i, len(got[0].Args[0]), len(m.Args[0]))
		}
	}
	return nil
}

func checkConcurrentSenders(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	const senders, each = 8, 100
	for i, way := range [][2]end{{client, server}, {server, client}} {
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for n := range each {
					_ = way[0].Send(numbered(string(rune('a'+s)), n))
				}
			})
		}
		wg.Wait()
		got, err := way[1].received(ctx, senders*each)
		if err != nil {
			return fmt.Errorf("way %d: %w", i, err)
		}
		next := map[byte]int{}
		for _, m := range got {
			s := m.Event[0]
			if want := fmt.Sprintf("%c%d", s, next[s]); m.Event != want {
				return fmt.Errorf("way %d: %s arrived, want %s", i, m.Event, want)
			}
			next[s]++
		}
	}
	return nil
}

func checkShared(ctx context.Context, b *bench) error {
	m := numbered("shared", 1)
	for i := range 3 {
		client, server, err := b.connect(ctx)
		if err != nil {
			return err
		}
		if err := server.Send(m); err != nil {
			return err
		}
		got, err := client.received(ctx, 1)
		if err != nil {
			return err
		}
		if got[0].Event != "shared1" || string(got[0].Args[0]) != "1" {
			return fmt.Errorf("connection %d received %s", i, describe(got[0]))
		}
	}
	return nil
}

func checkOneAtATime(ctx context.Context, b *bench) error {
	atServer, release := held()
	defer release()
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, newObserver(), atServer)
	if err != nil {
		return err
	}
	for i := range 5 {
		if err := client.Send(numbered("e", i)); err != nil {
			return err
		}
	}
	select {
	case <-atServer.entered:
	case <-ctx.Done():
		return fmt.Errorf("nothing arrived")
	}
	if _, _, err := b.connect(ctx); err != nil { // time for another call
		return err
	}
	release() // the observer complains when another call came in meanwhile
	_, err = server.received(ctx, 5)
	return err
}

func checkSendWithinReceive(ctx context.Context, b *bench) error {
	atServer := newObserver()
	var conn tidemark.Conn
	ready := make(chan struct{})
	release := sync.OnceFunc(func() { close(ready) })
	defer release()
	atServer.onReceive = func(m *tidemark.Message) {
		<-ready
		if conn.Send(m.NewAnswer(json.RawMessage("1"))) != nil {
			conn.Close(tidemark.ClosedError)
		}
	}
	client, server, err := b.connectWith(ctx, tidemark.Welcome{ID: "id"}, newObserver(), atServer)
	if err != nil {
		return err
	}
	conn = server.Conn
	release()
	for i := range 100 {
		if err := client.Send(numbered("e", i).NewCall(uint64(i))); err != nil {
			return err
		}
	}
	got, err := client.received(ctx, 100)
	if err != nil {
		return err
	}
	for i, m := range got {
		if m.Kind != tidemark.AnswerMessage || m.ID != uint64(i) {
			return fmt.Errorf("answer %d arrived as %s", i, describe(m))
		}
	}
	return nil
}

func checkImpossible(ctx context.Context, b *bench) error {
	client, server, err := b.connect(ctx)
	if err != nil {
		return err
	}
	_ = client.Send(&tidemark.Message{Event: "many", Attachments: make([][]byte, 11)}) // may be possible elsewhere
	_ = server.Send(&tidemark.Message{Event: "many", Attachments: make([][]byte, 11)})
	for _, way := range [][2]end{{client, server}, {server, client}} {
		if err := way[0].Send(numbered("after", 1)); err != nil {
			return err
		}
		if err := way[1].await(ctx, "the message after", func() bool {
			n := len(way[1].messages)
			return n > 0 && way[1].messages[n-1].Event == "after1"
		}); err != nil {
			return err
		}
	}
	return nil
}
