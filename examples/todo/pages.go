package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

//go:embed templates static
var files embed.FS

var templates = template.Must(template.ParseFS(files, "templates/*.html"))

// pages is the web page of a device.
type pages struct {
	device    *device
	other     string // the other device's name
	otherPort string
	homePort  string // the overview's, which may show this page in a frame
}

func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.FileServerFS(files))
	mux.HandleFunc("GET /{$}", p.page)
	mux.HandleFunc("GET /live", p.live)
	for path, do := range p.device.actions() {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil {
				http.Error(w, "unreadable form", http.StatusBadRequest)
				return
			}
			answer(w, r, do(r.Context(), r.PostForm.Get))
		})
	}
	return localOnly(mux, p.homePort)
}

// form gives the fields of a form that was posted.
type form func(field string) string

func (f form) text() string { return strings.TrimSpace(f("text")) }

// actions are what the forms of the page post to.
func (d *device) actions() map[string]func(context.Context, form) error {
	return map[string]func(context.Context, form) error{
		"/list/add":          func(ctx context.Context, f form) error { return d.addList(ctx, f.text()) },
		"/list/rename":       func(ctx context.Context, f form) error { return d.renameList(ctx, f("uid"), f.text()) },
		"/list/remove":       func(ctx context.Context, f form) error { return d.removeList(ctx, f("uid")) },
		"/item/add":          func(ctx context.Context, f form) error { return d.addItem(ctx, f("list"), f.text()) },
		"/item/rename":       func(ctx context.Context, f form) error { return d.renameItem(ctx, f("uid"), f.text()) },
		"/item/tick":         func(ctx context.Context, f form) error { return d.tickItem(ctx, f("uid"), f("done") == "true") },
		"/item/remove":       func(ctx context.Context, f form) error { return d.removeItem(ctx, f("uid")) },
		"/rejection/retry":   func(ctx context.Context, f form) error { return d.client.Retry(ctx, f("id")) },
		"/rejection/discard": func(ctx context.Context, f form) error { return d.client.Discard(ctx, f("id")) },
		"/online": func(_ context.Context, f form) error {
			d.setOnline(f("on") == "true")
			return nil
		},
	}
}

// page answers the whole page, which needs no script to work.
func (p *pages) page(w http.ResponseWriter, r *http.Request) {
	s, _ := p.device.look()
	render(w, "device.html", struct {
		Board    board
		OtherURL string
	}{newBoard(p.device.name, p.other, s), urlOf(r, p.otherPort)})
}

// live sends the board whenever it has changed. A slow browser misses the ones
// in between, never the last.
func (p *pages) live(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	for {
		s, stale := p.device.look()
		var html bytes.Buffer
		if err := templates.ExecuteTemplate(&html, "board", newBoard(p.device.name, p.other, s)); err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", bytes.ReplaceAll(html.Bytes(), []byte("\n"), []byte("\ndata: "))); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-stale:
		case <-r.Context().Done():
			return
		}
	}
}

// answer ends a POST. The board that follows from it comes over /live; a browser
// without script is sent back to the page.
func answer(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, tidemark.ErrNotFound):
		http.Error(w, "It is no longer there: another device may have deleted it.", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case r.Header.Get("HX-Request") != "":
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func render(w http.ResponseWriter, name string, data any) {
	var html bytes.Buffer
	if err := templates.ExecuteTemplate(&html, name, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = html.WriteTo(w)
}

// localOnly keeps other web sites out: a page elsewhere can neither post here
// (cross-origin requests are refused) nor read by making its own name resolve to
// this machine (only addresses and localhost are served).
func localOnly(next http.Handler, framePort string) http.Handler {
	guarded := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostOf(r)
		if host != "localhost" && net.ParseIP(host) == nil {
			http.Error(w, "unknown host", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-src http:; base-uri 'none'; form-action 'self'; frame-ancestors "+urlOf(r, framePort))
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		guarded.ServeHTTP(w, r)
	})
}

func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.Trim(host, "[]")
}

// urlOf returns the address of another port of the machine that r was sent to.
func urlOf(r *http.Request, port string) string {
	return "http://" + net.JoinHostPort(hostOf(r), port)
}
