package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
)

// fanOut is W4: one write to many sessions, until the last has it; and the same
// message through melody alone.
func (b *bench) fanOut(ctx context.Context) error {
	for _, n := range b.sessions {
		for range b.n {
			s, err := start("melody")
			if err != nil {
				return err
			}
			err = b.fanOutOnce(s, n, "", bareCrowd)
			s.stop()
			if err != nil {
				return fmt.Errorf("melody: %w", err)
			}
			err = b.each(ctx, 100, func(engine string, s *process) error { return b.fanOutOnce(s, n, engine, crowd) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func fanOutName(sessions int, engine string) string {
	return "one write to " + grouped(sessions) + " sessions, " + engine
}

func idleName(sessions int) string { return "idle connection, of " + grouped(sessions) }

// fanOutOnce takes one sample of each figure. engine is "" for bare melody, which is
// the limit of all engines.
func (b *bench) fanOutOnce(s *process, n int, engine string, join func(*process) (*member, error)) error {
	const writes, warm = 20, 3
	before, err := s.memory()
	if err != nil {
		return err
	}
	members, err := gather(s, n, join)
	defer func() {
		for _, m := range members {
			if m != nil {
				_ = m.ws.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	after, err := s.memory()
	if err != nil {
		return err
	}
	idle := float64(after.Resident-before.Resident) / 1024 / float64(n)
	done := watchAll(members)
	var latencies []float64
	for i := range writes + warm {
		took, err := done.write(members[i*37%n])
		if err != nil {
			return err
		}
		if i >= warm {
			latencies = append(latencies, took)
		}
		time.Sleep(10 * time.Millisecond) // so that one write's echo is not the next one's noise
	}
	if engine == "" {
		for _, e := range b.engines {
			l := b.report.line("W4", fanOutName(n, e), "ms", fanOutGoal(n, e))
			l.limit = append(l.limit, median(latencies))
		}
		l := b.report.line("W4", idleName(n), "KiB", atMost(30))
		l.limit = append(l.limit, idle)
		return nil
	}
	b.report.line("W4", fanOutName(n, engine), "ms", fanOutGoal(n, engine)).add(median(latencies))
	b.report.line("W4", idleName(n), "KiB", atMost(30)).add(idle)
	return nil
}

func fanOutGoal(sessions int, engine string) goal {
	if engine == "postgres" && sessions >= 1000 {
		return ratioAtMost(1.5)
	}
	return goal{}
}

// member is one of many connections, as light as can be.
type member struct {
	ws     *websocket.Conn
	create func() []byte // the frame that makes a write
}

func gather(s *process, n int, join func(*process) (*member, error)) ([]*member, error) {
	members := make([]*member, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range members {
		slots <- struct{}{}
		wg.Go(func() {
			members[i], errs[i] = join(s)
			<-slots
		})
	}
	wg.Wait()
	return members, errors.Join(errs...)
}

var frugal = websocket.Dialer{ReadBufferSize: 1024, WriteBufferSize: 1024, WriteBufferPool: new(sync.Pool)}

func bareCrowd(s *process) (*member, error) {
	ws, _, err := frugal.Dial("ws://"+s.address+"/socket.io/", nil)
	return &member{ws, func() []byte { return []byte(`42["service-event",` + strings.Repeat("x", 640) + `]`) }}, err
}

// crowd connects as a Socket.IO client does.
func crowd(s *process) (*member, error) {
	ws, _, err := frugal.Dial("ws://"+s.address+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		return nil, err
	}
	for _, step := range []string{"0", "40", `42["connected"`} {
		_, b, err := ws.ReadMessage()
		if err == nil && !bytes.HasPrefix(b, []byte(step)) {
			err = fmt.Errorf("%.40q instead of %s", b, step)
		}
		if err == nil && step == "0" {
			err = ws.WriteMessage(websocket.TextMessage, []byte("40"))
		}
		if err != nil {
			return nil, err
		}
	}
	return &member{ws, createFrame}, nil
}

func createFrame() []byte {
	x := makeItems(1)[0]
	at := tidemark.StampOf(x.CreatedAt)
	return fmt.Appendf(nil, `421["client-request",{"name":"item","action":"createWithMeta","args":[%q,{"title":%q,"content":%q,"list_id":%q,"created_at":%q,"updated_at":%q},%q]}]`,
		uuid.Must(uuid.NewV7()), x.Title, x.Content, x.ListID, at, at, at)
}

// audience counts what arrives at all members.
type audience struct {
	members int64
	got     atomic.Int64
	all     chan time.Time
	failed  chan error
}

func watchAll(members []*member) *audience {
	a := &audience{members: int64(len(members)), all: make(chan time.Time, 1), failed: make(chan error, 1)}
	for _, m := range members {
		go a.watch(m) // ends with its connection
	}
	return a
}

func (a *audience) watch(m *member) {
	for {
		_, b, err := m.ws.ReadMessage()
		switch {
		case err != nil:
			select {
			case a.failed <- err:
			default:
			}
			return
		case len(b) == 1: // a ping
			_ = m.ws.WriteMessage(websocket.TextMessage, []byte("3"))
		case bytes.HasPrefix(b, []byte("42")):
			if a.got.Add(1) == a.members {
				a.all <- time.Now()
			}
		}
	}
}

// write has one member write, and returns after how many milliseconds all have it.
func (a *audience) write(m *member) (float64, error) {
	frame := m.create()
	a.got.Store(0)
	began := time.Now()
	if err := m.ws.WriteMessage(websocket.TextMessage, frame); err != nil {
		return 0, err
	}
	select {
	case at := <-a.all:
		return millis(at.Sub(began)), nil
	case err := <-a.failed:
		return 0, err
	case <-time.After(30 * time.Second):
		return 0, fmt.Errorf("only %d of %d have it", a.got.Load(), a.members)
	}
}
