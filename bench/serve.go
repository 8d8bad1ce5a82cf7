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
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"time"

	"github.com/olahol/melody"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// The kinds of processes that this program is besides.
const (
	scoped  = "serve"  // a server: DSN ROWS [ADDRESS [AGE]], where rows are made unless there are some, and recovery keeps events for AGE
	guided  = "guide"  // one that has the guide's protocol only
	melodic = "melody" // melody alone
	lone    = "device" // a client, see deviceProcess
)

func isChild(args []string) bool {
	return len(args) > 1 && slices.Contains([]string{scoped, guided, melodic, lone}, args[1])
}

// child is a process of one of the kinds. A server prints its address and serves
// until its input ends.
func child(kind string, args []string) error {
	ctx := context.Background()
	stop, err := profiled(kind)
	if err != nil {
		return err
	}
	defer stop()
	if kind == lone {
		return deviceProcess(ctx, args)
	}
	return serve(ctx, kind, args)
}

func serve(ctx context.Context, kind string, args []string) error {
	mux := http.DefaultServeMux // which has /debug/pprof/
	mux.HandleFunc("/memory", serveMemory)
	end := func() error { return nil }
	var err error
	address := "127.0.0.1:0"
	if kind == melodic {
		serveMelody(mux)
	} else {
		if len(args) > 2 {
			address = args[2]
		}
		end, err = serveTidemark(ctx, mux, kind, args)
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, mux) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return end()
}

// serveTidemark is what a server's program does, as the README has it.
func serveTidemark(ctx context.Context, mux *http.ServeMux, kind string, args []string) (end func() error, err error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	var opts server.Options
	if len(args) > 3 {
		if opts.Recovery.MaxAge, err = time.ParseDuration(args[3]); err != nil {
			return nil, err
		}
	}
	db, err := openDatabase(args[0])
	if err != nil {
		return nil, err
	}
	if err := fill(ctx, db, n); err != nil {
		return nil, err
	}
	var driver tidemark.TxDriver
	driver, err = bundriver.New(ctx, db, []any{(*Item)(nil)}, &bundriver.Options{Prepare: true})
	if err != nil {
		return nil, err
	}
	if err := driver.Migrate(ctx); err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, "ANALYZE"); err != nil {
		return nil, err
	}
	if kind == guided {
		driver = struct{ tidemark.TxDriver }{driver} // without its log
	}
	srv, err := server.New(driver, &opts)
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

// profileTo names a directory, of the environment, in which each process leaves a CPU profile.
const profileTo = "TIDEMARK_BENCH_PROFILE"

// profiled begins the process's profile if one is asked for.
func profiled(kind string) (stop func(), err error) {
	dir := os.Getenv(profileTo)
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprint(kind, "-", os.Getpid(), ".pprof")))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
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
	m := memory{Resident: statusOf("VmRSS:"), Peak: peak, Heap: int64(s.HeapAlloc), Stacks: int64(s.StackInuse), Goroutines: runtime.NumGoroutine()}
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
