package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

// asProgram has the test binary be the program itself, so that tests can start,
// kill and restart the real thing.
const asProgram = "TIDEMARK_TODO_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	pgtest.Main(m)
}

// patience bounds every wait of these tests; none of them needs that long.
const patience = 30 * time.Second

// program is a running child process.
type program struct {
	t          *testing.T
	cmd        *exec.Cmd
	home, a, b string        // its URLs
	exited     chan struct{} // closed when the process has ended
	err        error         // of the process; read after exited
	stderr     strings.Builder
}

// start runs the program on dir, on free ports unless flags say otherwise, and
// returns when it serves.
func start(t *testing.T, dir string, flags ...string) *program {
	t.Helper()
	p := &program{t: t, exited: make(chan struct{})}
	args := append([]string{"-dir", dir, "-addr", "127.0.0.1:0", "-a", "127.0.0.1:0", "-b", "127.0.0.1:0"}, flags...)
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() && p.stderr.Len() > 0 {
			t.Logf("the program said:\n%s", &p.stderr)
		}
	})
	lines := bufio.NewScanner(stdout)
	for p.b == "" && lines.Scan() {
		switch name, at, _ := strings.Cut(lines.Text(), "http://"); strings.TrimSpace(name) {
		case "Both":
			p.home = "http://" + at
		case "Device A":
			p.a = "http://" + at
		case "Device B":
			p.b = "http://" + at
		}
	}
	ready := p.b != ""
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	if !ready {
		<-p.exited
		t.Fatalf("the program did not start: %v\n%s", p.err, &p.stderr)
	}
	return p
}

// again starts the program anew on the same folder and ports.
func (p *program) again(dir string) *program {
	p.t.Helper()
	return start(p.t, dir, "-addr", p.home[len("http://"):], "-a", p.a[len("http://"):], "-b", p.b[len("http://"):])
}

// kill ends the process as a power failure would, as far as the process can tell.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// interrupt asks the process to end, and returns how it did.
func (p *program) interrupt() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.t.Fatal("the program does not end")
	}
	return p.err
}

// post sends a form as a browser without script does, and returns the status.
func post(t *testing.T, at string, form url.Values, headers ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	resp, err := noRedirect(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func get(t *testing.T, at string) (body string, header http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := noRedirect(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), resp.Header
}

func noRedirect(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// eventually gets a page until it has text.
func eventually(t *testing.T, at, text string) {
	t.Helper()
	var body string
	until(t, func() bool {
		body, _ = get(t, at)
		return strings.Contains(body, text)
	}, func() string { return at + " never shows " + text + ":\n" + body })
}

// until polls ok.
func until(t *testing.T, ok func() bool, otherwise func() string) {
	t.Helper()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(otherwise())
		}
	}
}

func TestAPageNeedsNoScript(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	if code := post(t, p.a+"/list/add", url.Values{"text": {"Groceries <&>"}}); code != http.StatusSeeOther {
		t.Errorf("status %d, want a way back to the page", code)
	}
	eventually(t, p.a+"/", "Groceries &lt;&amp;&gt;")
	eventually(t, p.b+"/", "Groceries &lt;&amp;&gt;")
}

func TestOtherSitesAreKeptOut(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	form := url.Values{"text": {"planted"}}
	for name, headers := range map[string][]string{
		"another site":       {"Origin", "http://evil.example"},
		"another port":       {"Origin", p.b},
		"fetch from a site":  {"Sec-Fetch-Site", "cross-site"},
		"fetch from a port":  {"Sec-Fetch-Site", "same-site"},
		"an opaque document": {"Origin", "null"},
	} {
		if code := post(t, p.a+"/list/add", form, headers...); code != http.StatusForbidden {
			t.Errorf("a post from %s: status %d, want 403", name, code)
		}
	}
	if code := post(t, p.a+"/list/add", form, "Host", "rebound.example:8001"); code != http.StatusMisdirectedRequest {
		t.Errorf("a post under a name of somebody else's: status %d, want 421", code)
	}
	body, header := get(t, p.a+"/")
	if strings.Contains(body, "planted") {
		t.Error("a refused post had an effect")
	}
	csp := header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'self'") || !strings.Contains(csp, "frame-ancestors "+p.home) {
		t.Errorf("Content-Security-Policy %q", csp)
	}
}

func TestTheSocketIsNotForWebPages(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	socket := "ws" + p.home[len("http"):] + "/socket.io/?EIO=4&transport=websocket"
	for origin, want := range map[string]int{"": http.StatusSwitchingProtocols, p.a: http.StatusForbidden, "http://evil.example": http.StatusForbidden} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), socket, header)
		if conn != nil {
			conn.Close()
		}
		if resp == nil || resp.StatusCode != want {
			t.Errorf("origin %q: %v, %v, want status %d", origin, resp, err, want)
		}
	}
}

func TestWhatIsGoneCannotBeEdited(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	for path, form := range map[string]url.Values{
		"/item/tick":         {"uid": {"no such"}, "done": {"true"}},
		"/item/rename":       {"uid": {"no such"}, "text": {"x"}},
		"/item/remove":       {"uid": {"no such"}},
		"/item/add":          {"list": {"no such"}, "text": {"x"}},
		"/list/remove":       {"uid": {"no such"}},
		"/rejection/retry":   {"id": {"no such"}},
		"/rejection/discard": {"id": {"no such"}},
	} {
		if code := post(t, p.a+path, form); code != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, code)
		}
	}
}

func TestPostgreSQLServes(t *testing.T) {
	t.Parallel()
	// The role of the tests is called as the driver's schema, tidemark, which
	// PostgreSQL would therefore put before public as soon as it exists.
	at, err := url.Parse(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	options := at.Query()
	options.Set("search_path", "public")
	at.RawQuery = options.Encode()
	dsn := at.String()
	p := start(t, t.TempDir(), "-db", dsn)
	post(t, p.a+"/list/add", url.Values{"text": {"Groceries"}})
	eventually(t, p.b+"/", "Groceries")
	eventually(t, p.a+"/", "Synced")
	if err := p.interrupt(); err != nil {
		t.Fatalf("%v\n%s", err, &p.stderr)
	}
	again := start(t, t.TempDir(), "-db", dsn) // two new devices
	eventually(t, again.a+"/", "Groceries")
}

func TestASignalEndsItCleanly(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.a+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	live, err := noRedirect(t).Do(r) // a page that is open must not hold it up
	if err != nil {
		t.Fatal(err)
	}
	defer live.Body.Close()
	if err := p.interrupt(); err != nil {
		t.Errorf("the program ended with %v\n%s", err, &p.stderr)
	}
	if got := p.stderr.String(); got != "" {
		t.Errorf("it complained:\n%s", got)
	}
}

func TestASecondStartOnOnePortSaysSo(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	second := exec.CommandContext(ctx, os.Args[0], "-dir", dir, "-addr", p.home[len("http://"):])
	second.Env = append(os.Environ(), asProgram+"=1")
	out, err := second.CombinedOutput()
	if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "in use") {
		t.Errorf("%v, want one line that says that the address is in use:\n%s", err, out)
	}
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("it made files before it had its ports: %v", files)
	}
}
