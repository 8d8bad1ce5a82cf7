package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is the program, which can be stopped and started on its address and file.
type site struct {
	t         *testing.T
	addr, dsn string
	stop      func()
}

func newSite(t *testing.T) *site {
	s := &site{t: t, addr: "127.0.0.1:0", dsn: filepath.Join(t.TempDir(), "posts.db")}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *site) start() {
	s.t.Helper()
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, listener, s.dsn) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

// tab is one page in a headless Chromium.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		testneeds.Missing(t, "Chromium", "the page is tested in a real browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()))
	for _, flag := range []string{"headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// collect keeps what the page's policy refused, and errors that nobody caught.
const collect = `const problems = [];
	addEventListener("securitypolicyviolation", e => problems.push(e.violatedDirective + " " + e.blockedURI));
	addEventListener("error", e => problems.push(e.message));
	addEventListener("unhandledrejection", e => problems.push(JSON.stringify(e.reason)));`

func (s *site) open(browser context.Context) *tab {
	s.t.Helper()
	ctx, end := chromedp.NewContext(browser)
	s.t.Cleanup(end)
	p := &tab{t: s.t, ctx: ctx}
	p.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		// Only one tab of a window has the focus; each of these behaves as if it had.
		_, err := chromedp.Call(ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
		if err == nil {
			_, err = chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: collect})
		}
		return err
	}), chromedp.EmulateViewport(900, 520), chromedp.Navigate("http://"+s.addr+"/"))
	s.t.Cleanup(func() {
		if problems := value[string](p, "problems.join()"); problems != "" {
			s.t.Errorf("the page complains: %s", problems)
		}
	})
	p.wait(`document.getElementById("status").textContent === "Connected"`)
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

func value[T any](p *tab, js string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		p.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// wait polls a JavaScript condition for at most 20 seconds.
func (p *tab) wait(js string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !value[bool](p, "!!("+js+")") {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("never: %s\n%s\n%s", js, value[string](p, "document.body.innerText"), value[string](p, outline))
		}
	}
}

// outline is the list as text: a line for each post, its title and its content; * where it is unsent.
const outline = `[...document.querySelectorAll("#posts li")].map(li =>
	(li.classList.contains("unsent") ? "* " : "") + [...li.querySelectorAll("input")].map(i => i.value).join(" | ")).join("\n")`

func (p *tab) shows(want ...string) {
	p.t.Helper()
	p.wait("(" + outline + ") === " + quote(strings.Join(want, "\n")))
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// fill types into the field, in the place of what it had, and presses Enter.
func (p *tab) fill(selector, text string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS(selector)))
	value[bool](p, "document.activeElement.select() || true")
	p.do(chromedp.KeyEvent(text + kb.Enter))
}

func (p *tab) add(title, content string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS("#add [name=title]")), chromedp.KeyEvent(title), chromedp.Focus(chromedp.CSS("#add [name=content]")), chromedp.KeyEvent(content+kb.Enter))
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS(selector)), chromedp.KeyEvent(kb.Enter))
}

// shoot keeps a picture where TIDEMARK_ARTIFACTS says.
func (p *tab) shoot(name string) {
	p.t.Helper()
	dir := os.Getenv("TIDEMARK_ARTIFACTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "javascript-"+name+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func TestTwoTabsEditTheSamePosts(t *testing.T) {
	t.Parallel()
	s, browser := newSite(t), openBrowser(t)
	a, b := s.open(browser), s.open(browser)
	b.wait(`!document.getElementById("empty").hidden`)

	a.add("Hello", "first")
	a.add(`<img src=x onerror=alert(1)> "quoted" é😀`, "")
	b.shows("Hello | first", `<img src=x onerror=alert(1)> "quoted" é😀 | `)
	a.shows("Hello | first", `<img src=x onerror=alert(1)> "quoted" é😀 | `)

	b.fill("#posts li:first-child [name=title]", "Hello again")
	b.fill("#posts li:first-child [name=content]", "changed")
	a.shows("Hello again | changed", `<img src=x onerror=alert(1)> "quoted" é😀 | `)

	a.click("#posts li:last-child button")
	b.shows("Hello again | changed")
	b.add("Gone soon", "")
	a.wait(`document.querySelectorAll("#posts li").length === 2`)
	b.click("#posts li:last-child button")
	a.shows("Hello again | changed")
	s.open(browser).shows("Hello again | changed")
	a.wait(`document.getElementById("status").textContent === "Connected"`)
}

func TestWhatIsWrittenOfflineArrivesLater(t *testing.T) {
	t.Parallel()
	s, browser := newSite(t), openBrowser(t)
	a, b := s.open(browser), s.open(browser)
	a.add("Milk", "")
	a.add("Bread", "")
	b.shows("Milk | ", "Bread | ")
	a.shows("Milk | ", "Bread | ")

	a.click("#online")
	a.wait(`document.getElementById("status").textContent === "Offline"`)
	a.fill("#posts li:first-child [name=title]", "Oat milk")
	a.add("Eggs", "six")
	a.click("#posts li:nth-child(2) button")
	a.shows("* Oat milk | ", "* Eggs | six")
	a.wait(`document.getElementById("status").textContent === "Offline, 3 unsent"`)
	b.fill("#posts li:first-child [name=content]", "one litre")
	b.shows("Milk | one litre", "Bread | ")
	a.shoot("offline")

	a.click("#online")
	a.wait(`document.getElementById("status").textContent === "Connected"`)
	// Bread is gone, Eggs are there; of the two writes of Milk the later won, whole.
	b.shows("Milk | one litre", "Eggs | six")
	a.shows("Milk | one litre", "Eggs | six")
	b.shoot("connected")
}

func TestThePageOutlivesItsServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open(openBrowser(t))
	p.add("before", "")
	p.shows("before | ")
	s.stop()
	p.wait(`document.getElementById("status").className === "connecting"`)
	p.add("meanwhile", "")
	p.shows("before | ", "* meanwhile | ")
	s.start()
	p.shows("before | ", "meanwhile | ")
	p.wait(`document.getElementById("status").textContent === "Connected"`)
}

// TestARefusedWriteIsUndoneAndSaid: the text is one that no server can store.
func TestARefusedWriteIsUndoneAndSaid(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open(openBrowser(t))
	p.add("kept", "")
	p.shows("kept | ")
	value[bool](p, `(() => { const i = document.querySelector("#posts [name=title]"); i.value = "a\ud800"; i.dispatchEvent(new Event("change", { bubbles: true })); return true })()`)
	p.wait(`document.getElementById("refused").textContent.includes("invalid-data")`)
	p.shows("kept | ")
	value[bool](p, `(() => { const i = document.querySelector("#posts [name=title]"); i.value = "b\0"; i.dispatchEvent(new Event("change", { bubbles: true })); return true })()`)
	p.shows("kept | ")
}

func TestNoPageOfAnotherSiteConnects(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]bool{"": true, "http://here:8000": true, "http://elsewhere": false, "http://here": false, "null": false, "http://here:8000.evil": false, "://": false} {
		r := &http.Request{Host: "here:8000", Header: http.Header{}}
		r.Header.Set("Origin", origin)
		if got := ownPages(r); got != want {
			t.Errorf("%q: got %v", origin, got)
		}
	}
}
