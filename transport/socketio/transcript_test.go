package socketio_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// Each line of a transcript is one step:
//
//	S text     the server sends this; * stands for anything
//	B hex      the server sends this attachment
//	C text     the client sends this
//	D hex      the client sends this attachment
//	L n, M n   the client sends an event, or an attachment, of n bytes
//	F n        the client sends an event of n bytes in many fragments
//	X code     the server closes the websocket with this code
//	! name v   an option of the handler
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if strings.HasPrefix(name, "broken") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			lines := readLines(t, file)
			opts, app := settings(t, lines)
			if opts.PingInterval+opts.PingTimeout+opts.ConnectTimeout > 0 { // on virtual time
				bubble(t, socketio.NewHandler(app, opts), func(t *testing.T, p *pipes) {
					c := rawClient{rawDial(t, p)}
					c.play(t, lines)
					_ = c.Conn.Close()
				})
				return
			}
			t.Parallel()
			s := serve(t, app, opts)
			dialRaw(t, s.URL).play(t, lines)
		})
	}
}

func (c rawClient) play(t *testing.T, lines []string) {
	t.Helper()
	for i, line := range lines {
		if line[0] == '!' {
			continue
		}
		if err := c.step(line[0], line[2:]); err != nil {
			t.Errorf("step %d, %s: %v", i+1, line, err)
			return
		}
	}
}

func TestBrokenPacketsEndTheConnection(t *testing.T) {
	t.Parallel()
	standing := []string{"S 0*", "C 40", "S 40*", "S 42*"}
	for file, before := range map[string][]string{"broken": standing, "broken-connect": {"S 0*"}} {
		for _, line := range append(readLines(t, "testdata/transcripts/"+file+".txt"), "", "42[\"\xff\"]") {
			t.Run(file+" "+line, func(t *testing.T) {
				t.Parallel()
				s := serve(t, &expressLike{}, nil)
				c := dialRaw(t, s.URL)
				for _, step := range append(before, "C "+line, "X 1005") {
					if err := c.step(step[0], step[2:]); err != nil {
						t.Fatalf("%s: %v", step, err)
					}
				}
			})
		}
	}
}

func readLines(t *testing.T, file string) (lines []string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

func settings(t *testing.T, lines []string) (*socketio.Options, *expressLike) {
	t.Helper()
	o, app := &socketio.Options{}, &expressLike{}
	duration := map[string]*time.Duration{"pingInterval": &o.PingInterval, "pingTimeout": &o.PingTimeout, "connectTimeout": &o.ConnectTimeout}
	size := map[string]*int{"maxHelloBytes": &o.MaxHelloBytes, "maxMessageBytes": &o.MaxMessageBytes}
	for _, line := range lines {
		f := strings.Fields(line)
		var err error
		switch {
		case f[0] != "!":
			continue
		case f[1] == "recovery":
			app.recovery = true
		case duration[f[1]] != nil:
			*duration[f[1]], err = time.ParseDuration(f[2])
		default:
			*size[f[1]], err = strconv.Atoi(f[2])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return o, app
}

// rawClient is a bare websocket.
type rawClient struct{ *websocket.Conn }

func dialRaw(t *testing.T, url string) rawClient {
	t.Helper()
	d := websocket.Dialer{WriteBufferSize: 512}
	c, _, err := d.Dial(strings.Replace(url, "http", "ws", 1)+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil { // ends what hangs
		t.Fatal(err)
	}
	return rawClient{c}
}

func (c rawClient) step(verb byte, rest string) error {
	switch verb {
	case 'C':
		return c.WriteMessage(websocket.TextMessage, []byte(rest))
	case 'D':
		b, err := hex.DecodeString(rest)
		return errors.Join(err, c.WriteMessage(websocket.BinaryMessage, b))
	case 'L', 'M', 'F':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		return c.big(verb, n)
	case 'X':
		return c.closes(rest)
	}
	kind, b, err := c.ReadMessage()
	if err != nil {
		return err
	}
	got := string(b)
	if kind == websocket.BinaryMessage {
		got = hex.EncodeToString(b)
	}
	if (kind == websocket.BinaryMessage) != (verb == 'B') || !matches(rest, got) {
		return errors.New("got " + got)
	}
	return nil
}

func (c rawClient) big(verb byte, n int) error {
	b := append([]byte(`42["x","`), bytes.Repeat([]byte("y"), n-10)...)
	b = append(b, `"]`...)
	kind := websocket.TextMessage
	if verb == 'M' {
		kind = websocket.BinaryMessage
	}
	if verb != 'F' {
		return c.WriteMessage(kind, b)
	}
	w, err := c.NextWriter(kind) // flushes a fragment each time that its buffer is full
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Close())
}

func (c rawClient) closes(code string) error {
	_, b, err := c.ReadMessage()
	got := "1006"
	if e, ok := errors.AsType[*websocket.CloseError](err); ok {
		got = strconv.Itoa(e.Code)
	}
	if err == nil || !matches(code, got) {
		return errors.New("got " + string(b) + ", close code " + got)
	}
	return nil
}

func matches(pattern, s string) bool {
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(s)
}

// expressLike is an acceptor that behaves as the original's server does, as far
// as the transcripts go.
type expressLike struct{ recovery bool }

func (e *expressLike) Offer(_ context.Context, o tidemark.Offer) {
	hello := o.Hello()
	if string(hello.Auth) == `{"token":"bad"}` {
		o.Refuse(tidemark.NewError(tidemark.CodeUnauthenticated, "bad token"))
		return
	}
	w := tidemark.Welcome{ID: "id-1"}
	if e.recovery {
		w.Session = "private-1"
	}
	if hello.Session == "private-7" && hello.Offset == "offset-3" {
		w.ID, w.Session = "id-7", hello.Session
		missed, _ := tidemark.NewEvent(tidemark.EventService, json.RawMessage(`{"name":"post","action":"createWithMeta","result":[]}`), "offset-4")
		binary, _ := tidemark.NewEvent("binary", json.RawMessage(`{"_placeholder":true,"num":0}`), "offset-5")
		binary.Attachments = [][]byte{{1, 2, 3}}
		w.Replay = []*tidemark.Message{missed, binary}
	}
	s := &expressSession{auth: hello.Auth, ready: make(chan struct{})}
	defer close(s.ready)
	c, err := o.Accept(w, s)
	if err != nil {
		return
	}
	s.conn = c
	args := []any{w.ID}
	if w.Session != "" {
		args = append(args, "offset-1")
	}
	connected, _ := tidemark.NewEvent(tidemark.EventConnected, args...)
	_ = c.Send(connected)
}

type expressSession struct {
	auth  json.RawMessage
	ready chan struct{}
	conn  tidemark.Conn
}

func (s *expressSession) Closed(tidemark.CloseReason) {}

func (s *expressSession) Receive(m *tidemark.Message) {
	<-s.ready
	if m.Event != tidemark.EventRequest || m.Kind != tidemark.CallMessage {
		return
	}
	answer := m.NewAnswer(s.answer(m))
	answer.Attachments = m.Attachments
	_ = s.conn.Send(answer)
}

func (s *expressSession) answer(m *tidemark.Message) json.RawMessage {
	r, err := tidemark.ParseRequest(m.Args[0])
	a := tidemark.Answer{Err: tidemark.WireError(err)}
	if err == nil {
		switch r.Name + "." + r.Action {
		case "greet.hello":
			name, _ := tidemark.DecodeString(r.Args[0])
			a.Result = tidemark.AppendString(nil, "Hello, "+name+"!")
		case "broken.coded":
			a.Err = tidemark.NewError("my-code", "coded error")
		case "util.nothing":
		case "util.auth":
			a.Result = s.auth
		case "util.echo":
			a.Result, _ = json.Marshal(append([]json.RawMessage{}, r.Args...))
		case "post.findUnique":
			a.Result = json.RawMessage("null")
		default:
			a.Err = tidemark.NewError(tidemark.CodeMissingService, "there is no service named '%s'", r.Name)
		}
	}
	raw, _ := a.MarshalJSON()
	return raw
}
