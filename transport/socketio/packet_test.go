package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// samples are frames for tables and fuzzing.
var samples = []string{
	`0`, `0{"token":"x"}`, `0/admin,`, `0/admin,{"a":1}`, `0{"pid":"p","offset":"o"}`, `1`, `1/admin,`,
	`2["x"]`, `20["client-request",{"name":"a","action":"b","args":[]}]`, `2/admin,7["x",1]`, `30[]`, `312[{"result":null}]`,
	`4{"message":"no","data":{"code":"denied"}}`, `51-["x",{"_placeholder":true,"num":0}]`,
	`62-/n,5[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]`, `50-["x"]`,
	`510-["x"]`, `511-["x"]`, `2[5,"number"]`, `2["\ud800"]`, `2["é",[[[[]]]]]`, `299999999999999999999["x"]`, `7`, ``,
}

func TestParsePacketReadsItsParts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want packet
	}{
		{`0`, packet{kind: packetConnect, namespace: "/"}},
		{`0/admin,{"a":1}`, packet{kind: packetConnect, namespace: "/admin", payload: []byte(`{"a":1}`)}},
		{`0/admin`, packet{kind: packetConnect, namespace: "/admin"}},
		{`2["x"]`, packet{kind: packetEvent, namespace: "/", payload: []byte(`["x"]`)}},
		{`2/a-1,7["x"]`, packet{kind: packetEvent, namespace: "/a-1", hasID: true, id: 7, payload: []byte(`["x"]`)}},
		{`312[]`, packet{kind: packetAck, namespace: "/", hasID: true, id: 12, payload: []byte(`[]`)}},
		{`510-/n,3["x"]`, packet{kind: packetBinaryEvent, attachments: 10, namespace: "/n", hasID: true, id: 3, payload: []byte(`["x"]`)}},
	} {
		got, err := parsePacket([]byte(c.in))
		if err != nil || got.kind != c.want.kind || got.attachments != c.want.attachments || got.namespace != c.want.namespace ||
			got.hasID != c.want.hasID || got.id != c.want.id || !bytes.Equal(got.payload, c.want.payload) {
			t.Errorf("%s: got %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
}

func TestEncodeIsWhatTheProtocolSays(t *testing.T) {
	t.Parallel()
	raw := func(s ...string) (args []json.RawMessage) {
		for _, a := range s {
			args = append(args, json.RawMessage(a))
		}
		return args
	}
	for _, c := range []struct {
		m    *tidemark.Message
		want string
	}{
		{&tidemark.Message{Event: "x"}, `42["x"]`},
		{&tidemark.Message{Event: `a"b`, Args: raw(`1`, `{"c":2}`)}, `42["a\"b",1,{"c":2}]`},
		{&tidemark.Message{Event: "x", ID: 9, Args: []json.RawMessage{nil}}, `42["x",null]`},
		{&tidemark.Message{Kind: tidemark.CallMessage, Event: "x"}, `420["x"]`},
		{&tidemark.Message{Kind: tidemark.AnswerMessage, ID: 12}, `4312[]`},
		{&tidemark.Message{Kind: tidemark.AnswerMessage, ID: 12, Args: raw(`1`, `2`)}, `4312[1,2]`},
		{&tidemark.Message{Event: "x", Attachments: make([][]byte, 2)}, `452-["x"]`},
		{&tidemark.Message{Kind: tidemark.AnswerMessage, ID: 3, Args: raw(`1`), Attachments: make([][]byte, 1)}, `461-3[1]`},
	} {
		if got := string(encode(c.m)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestHelloSurvivesTheWire(t *testing.T) {
	t.Parallel()
	for _, h := range []tidemark.Hello{
		{}, {Auth: []byte(`{"a":1}`)}, {Auth: []byte(`{}`)}, {Session: "s", Offset: "o"}, {Session: "s"},
		{Auth: []byte(`{"a":{"pid":1}}`), Session: "s\"", Offset: "é"},
	} {
		b, err := encodeHello(h)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseHello(b[2:])
		if err != nil || string(got.Auth) != string(h.Auth) || got.Session != h.Session || got.Offset != h.Offset {
			t.Errorf("%s %q %q came back as %s %q %q, %v", h.Auth, h.Session, h.Offset, got.Auth, got.Session, got.Offset, err)
		}
	}
	for _, auth := range []string{`[]`, `"x"`, `{`, `1`, `{}x`} {
		if _, err := encodeHello(tidemark.Hello{Auth: []byte(auth)}); err == nil {
			t.Errorf("auth %s was encoded", auth)
		}
	}
}

func TestPayloadsBeyondTheLimitsAreTheRequestsFault(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return `["x",` + strings.Repeat("[", n) + strings.Repeat("]", n) + `]` }
	for _, c := range []struct {
		name, payload string
		refused       bool
	}{
		{"as deep as allowed", nested(maxDepth - 1), false},
		{"deeper", nested(maxDepth), true},
		{"a member twice", `["x",{"a":1,"\u0061":2}]`, true},
		{"a list of objects", `["x",[` + strings.Repeat(`{"uid":"1"},`, 100_000) + `0]]`, false},
		{"a bomb of values", `["x",[` + strings.Repeat(`0,`, 100_000) + `0]]`, true},
	} {
		d := decoder{strict: true, maxBytes: 1 << 20}
		m, err := d.message(packet{kind: packetEvent, namespace: "/", hasID: true, id: 4, payload: []byte(c.payload)})
		limit, refused := errors.AsType[*limitError](err)
		if refused != c.refused || (m != nil) == c.refused {
			t.Errorf("%s: got %v, %v", c.name, m != nil, err)
		}
		if refused && (limit.call == nil || limit.call.ID != 4) {
			t.Errorf("%s: nobody would be answered", c.name)
		}
		if _, err := (&decoder{maxBytes: 1 << 20}).message(packet{kind: packetEvent, namespace: "/", payload: []byte(c.payload)}); err != nil {
			t.Errorf("%s: a client refuses it too: %v", c.name, err)
		}
	}
}

// FuzzDecode feeds a decoder with a packet and attachments: it must not panic,
// and what it takes must survive being encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s), []byte{1, 2}, true)
		f.Add([]byte(s), []byte{}, false)
	}
	f.Fuzz(func(t *testing.T, frame, attachment []byte, strict bool) {
		d := decoder{strict: strict, maxBytes: 1 << 20}
		m := decodeAll(&d, frame, attachment)
		if m == nil {
			return
		}
		if strict && len(m.Args) > maxValues(len(frame)) {
			t.Fatalf("%d arguments of %d bytes", len(m.Args), len(frame))
		}
		again := decodeAll(&decoder{strict: strict, maxBytes: 1 << 20}, encode(m)[1:], attachment)
		if again == nil || again.Kind != m.Kind || again.ID != m.ID || again.Event != m.Event ||
			len(again.Args) != len(m.Args) || len(again.Attachments) != len(m.Attachments) {
			t.Fatalf("%q: %+v came back as %+v from %q", frame, m, again, encode(m))
		}
		for i := range m.Args {
			if !bytes.Equal(m.Args[i], again.Args[i]) {
				t.Fatalf("%q: argument %s came back as %s", frame, m.Args[i], again.Args[i])
			}
		}
	})
}

// decodeAll returns the message of frame, with the attachment as often as it asks for one; nil for anything else.
func decodeAll(d *decoder, frame, attachment []byte) *tidemark.Message {
	p, err := parsePacket(frame)
	if err != nil || p.kind < packetEvent || p.kind == packetConnectError {
		return nil
	}
	m, err := d.message(p)
	for err == nil && m == nil {
		m, err = d.attachment(attachment)
	}
	if err != nil {
		return nil
	}
	return m
}

// FuzzHello: what a client says when it connects is read or refused, and an
// application's payload is always an object.
func FuzzHello(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"pid":"a","offset":"b"}`, `{"pid":1,"token":"x"}`, `[]`, `{"a":{"pid":"x"}}`, `null`, ` {"a" : 1 } `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, err := parseHello(payload)
		if err != nil || h.Auth == nil {
			return
		}
		if !json.Valid(h.Auth) || h.Auth[0] != '{' {
			t.Fatalf("%q gives auth %q", payload, h.Auth)
		}
		if _, err := encodeHello(h); err != nil {
			t.Fatalf("%q cannot be sent again: %v", payload, err)
		}
	})
}

// FuzzServerFrames: whatever a server sends in answer to a client, nothing panics.
func FuzzServerFrames(f *testing.F) {
	f.Add([]byte(`0{"sid":"x","pingInterval":25000,"pingTimeout":20000}`))
	f.Add([]byte(`0{"pingInterval":-1}`))
	f.Add([]byte(`{"sid":"x","pid":"y"}`))
	f.Add([]byte(`{"message":"m","data":{"code":5}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := parseOpening(b); err == nil && o.silence() <= 0 {
			t.Fatalf("%q announces no silence", b)
		}
		if w, err := parseConnected(b); err == nil && w.ID == "" {
			t.Fatalf("%q names nobody", b)
		}
		if e := parseRefused(b); e == nil {
			t.Fatal("no refusal")
		}
	})
}
