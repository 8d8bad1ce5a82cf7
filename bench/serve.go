package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/olahol/melody"

	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// child is the server's process: it prints its address and serves until its
// input ends.
func child(kind string, args []string) error {
	ctx := context.Background()
	mux := http.DefaultServeMux // which has /debug/pprof/
	mux.HandleFunc("/memory", serveMemory)
	end := func() error { return nil }
	var err error
	switch kind {
	case "melody":
		serveMelody(mux)
	default:
		end, err = serveTidemark(ctx, mux, args[0], args[1])
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, mux) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return end()
}

// serveTidemark is what a server's program does, as the README has it.
func serveTidemark(ctx context.Context, mux *http.ServeMux, dsn, rows string) (end func() error, err error) {
	n, err := strconv.Atoi(rows)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(dsn)
	if err != nil {
		return nil, err
	}
	if err := fill(ctx, db, n); err != nil {
		return nil, err
	}
	driver, err := bundriver.New(ctx, db, []any{(*Item)(nil)}, &bundriver.Options{Prepare: true})
	if err != nil {
		return nil, err
	}
	if err := driver.Migrate(ctx); err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, "ANALYZE"); err != nil {
		return nil, err
	}
	srv, err := server.New(driver, nil)
	if err != nil {
		return nil, err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	srv.Service("item").Publish(server.To("all"))
	mux.Handle("/socket.io/", socketio.NewHandler(srv, nil))
	return db.Close, nil
}

// serveMelody is melody alone: what one client sends goes to all.
func serveMelody(mux *http.ServeMux) {
	m := melody.New()
	m.Config.MaxMessageSize = 1 << 20
	m.HandleMessage(func(_ *melody.Session, b []byte) { _ = m.Broadcast(b) })
	mux.HandleFunc("/socket.io/", func(w http.ResponseWriter, r *http.Request) { _ = m.HandleRequest(w, r) })
}

func serveMemory(w http.ResponseWriter, _ *http.Request) {
	peak := statusOf("VmHWM:")
	debug.FreeOSMemory()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m := memory{Resident: statusOf("VmRSS:"), Peak: peak, Heap: int64(s.HeapAlloc), Stacks: int64(s.StackInuse)}
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // begins the peak anew
	_ = json.NewEncoder(w).Encode(m)
}

// statusOf returns a size that Linux tells of this process, in bytes; 0 elsewhere.
func statusOf(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, _ := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return n << 10
		}
	}
	return 0
}
