package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

// browser is a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		testneeds.Missing(t, "Chromium", "the pages are tested in a real browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("headless", true),
		chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("no-first-run", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
	)
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, ctx: ctx}
}

// look is a screen and a colour scheme.
type look struct {
	name          string
	width, height int64
	scheme        string
}

var (
	desktop     = look{"desktop-light", 1120, 780, "light"}
	desktopDark = look{"desktop-dark", 1120, 780, "dark"}
	phone       = look{"phone-light", 360, 740, "light"}
	phoneDark   = look{"phone-dark", 360, 740, "dark"}
	wide        = look{"wide", 1400, 860, "light"}
)

// tab is one page in the browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// open shows url and waits for the live board.
func (b *browser) open(url string) *tab {
	b.t.Helper()
	ctx, end := chromedp.NewContext(b.ctx)
	b.t.Cleanup(end)
	p := &tab{t: b.t, ctx: ctx}
	// Only one tab of a window has the focus; each of these behaves as if it had.
	p.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
		return err
	}))
	p.see(desktop)
	p.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: collect})
		return err
	}), chromedp.Navigate(url))
	p.t.Cleanup(func() {
		if problems := value[string](p, "problems.join()"); problems != "" {
			p.t.Errorf("%s complains: %s", url, problems)
		}
	})
	return p
}

// collect keeps what the page's policy refused, and errors that nobody caught.
const collect = `const problems = [];
	addEventListener("securitypolicyviolation", e => problems.push(e.violatedDirective + " " + e.blockedURI));
	addEventListener("error", e => problems.push(e.message));
	addEventListener("unhandledrejection", e => problems.push(String(e.reason)));`

// see changes the screen.
func (p *tab) see(l look) {
	p.t.Helper()
	options := []chromedp.EmulateViewportOption{}
	if l.width < 600 {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch, chromedp.EmulateScale(2))
	}
	p.do(chromedp.EmulateViewport(l.width, l.height, options...),
		chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}},
			})
			return err
		}))
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// keys types on whatever has the focus.
func (p *tab) keys(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

// value evaluates a JavaScript expression.
func value[T any](p *tab, js string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		p.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// wait polls a JavaScript condition.
func (p *tab) wait(js string) {
	p.t.Helper()
	until(p.t, func() bool { return value[bool](p, "!!("+js+")") }, func() string {
		return "never: " + js + "\n" + value[string](p, "document.body.innerText") +
			"\nfocus: " + value[string](p, "document.activeElement.outerHTML")
	})
}

// tabTo presses Tab until the focused element matches the selector.
func (p *tab) tabTo(selector string) {
	p.t.Helper()
	for range 60 {
		p.keys(kb.Tab)
		if value[bool](p, fmt.Sprintf("document.activeElement.matches(%s)", quote(selector))) {
			return
		}
	}
	p.t.Fatalf("Tab never reaches %s", selector)
}

// shows waits until the lists read like this: a line "# name" for each list, and
// below it "[ ] item" or "[x] item".
func (p *tab) shows(want ...string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("(%s) === %s", outline, quote(strings.Join(want, "\n"))))
}

const outline = `[...document.querySelectorAll("section.list")].flatMap(list => [
	"# " + list.querySelector("h2").innerText,
	...[...list.querySelectorAll("li.item")].map(item =>
		(item.querySelector("[role=checkbox]").ariaChecked === "true" ? "[x] " : "[ ] ") +
		item.querySelector(".text").textContent)]).join("\n")`

// item is the selector of a part of the item with that text.
func item(p *tab, text, part string) string {
	p.t.Helper()
	id := value[string](p, fmt.Sprintf(`[...document.querySelectorAll("li.item")].find(i => i.querySelector(".text").textContent === %s)?.id ?? ""`, quote(text)))
	if id == "" {
		p.t.Fatalf("no item %q", text)
	}
	return fmt.Sprintf(`[id="%s"] %s`, id, part)
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// press focuses what the selector names and presses Enter.
func (p *tab) press(selector string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS(selector)))
	p.keys(kb.Enter)
}

// add types lines into the field named by the selector.
func (p *tab) add(selector string, lines ...string) {
	p.t.Helper()
	p.do(chromedp.Focus(chromedp.CSS(selector)))
	for _, l := range lines {
		p.keys(l + kb.Enter)
	}
}

// rename edits an item in place.
func (p *tab) rename(old, text string) {
	p.t.Helper()
	p.press(item(p, old, "summary"))
	p.wait(`document.activeElement.matches("details.edit input")`)
	p.keys(text + kb.Enter)
}

func (p *tab) online(on bool) {
	p.t.Helper()
	if value[bool](p, `document.getElementById("online").ariaChecked === "true"`) != on {
		p.press("#online")
	}
	p.wait(fmt.Sprintf(`document.getElementById("online").ariaChecked === "%v"`, on))
}

func (p *tab) synced() {
	p.t.Helper()
	p.wait(`document.querySelector(".pill.synced") && !document.querySelector(".pending, .unsent")`)
}

// shoot keeps a picture where TIDEMARK_ARTIFACTS says.
func (p *tab) shoot(l look, name string) {
	p.t.Helper()
	dir := os.Getenv("TIDEMARK_ARTIFACTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	p.see(l)
	png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "todo-"+name+"-"+l.name+".png"), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
