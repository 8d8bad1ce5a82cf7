package socketio

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// The first byte of an Engine.IO 4 text frame. Binary frames have none: each is an attachment.
const (
	engineOpen    = '0'
	engineClose   = '1'
	enginePing    = '2'
	enginePong    = '3'
	engineMessage = '4'
	engineUpgrade = '5'
	engineNoop    = '6'
)

// The second byte of an Engine.IO message: the kind of a Socket.IO 5 packet.
const (
	packetConnect      = '0'
	packetDisconnect   = '1'
	packetEvent        = '2'
	packetAck          = '3'
	packetConnectError = '4'
	packetBinaryEvent  = '5'
	packetBinaryAck    = '6'
)

// MaxAttachments is how many binary arguments a message may have, as in Socket.IO's own parser.
const MaxAttachments = 10

var errMalformed = errors.New("socketio: malformed packet")

// packet is a Socket.IO packet, without the Engine.IO byte before it. Its payload is not checked yet.
type packet struct {
	kind        byte
	attachments int    // that follow, each in a binary frame
	namespace   string // "/" when none was given
	hasID       bool
	id          uint64
	payload     []byte // JSON text; empty when there is none
}

// parsePacket reads <kind>[<attachments>-][<namespace>,][<id>][<payload>]. The payload is part of b.
func parsePacket(b []byte) (packet, error) {
	p := packet{namespace: "/"}
	if len(b) == 0 || b[0] < packetConnect || b[0] > packetBinaryAck {
		return p, errMalformed
	}
	p.kind, b = b[0], b[1:]
	if p.binary() {
		count, rest, ok := bytes.Cut(b, []byte{'-'})
		if !ok || len(count) == 0 || len(count) > 2 || leadingDigits(count) != len(count) {
			return p, errMalformed
		}
		p.attachments, _ = strconv.Atoi(string(count))
		if p.attachments > MaxAttachments {
			return p, errMalformed
		}
		b = rest
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, _ := bytes.Cut(b, []byte{','})
		p.namespace, b = string(name), rest
	}
	if n := leadingDigits(b); n > 0 {
		id, err := strconv.ParseUint(string(b[:n]), 10, 64)
		if err != nil {
			return p, errMalformed
		}
		p.id, p.hasID, b = id, true, b[n:]
	}
	p.payload = b
	return p, nil
}

func (p packet) binary() bool { return p.kind == packetBinaryEvent || p.kind == packetBinaryAck }

func leadingDigits(b []byte) int {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n
}

// reserved are the event names that Socket.IO's parsers refuse.
func reserved(event string) bool {
	switch event {
	case "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

// checkMessage reports whether m can be sent: a peer would break off at what it refuses.
func checkMessage(m *tidemark.Message) error {
	switch {
	case len(m.Attachments) > MaxAttachments:
		return tidemark.NewError(tidemark.CodeTooLarge, "more than %d attachments", MaxAttachments)
	case m.Kind != tidemark.AnswerMessage && reserved(m.Event):
		return tidemark.NewError(tidemark.CodeInvalidData, "%s is a reserved event", m.Event)
	}
	return nil
}

// encode gives the text frame of m, as [tidemark.Message.Frame] wants it.
func encode(m *tidemark.Message) []byte {
	size := 40 + len(m.Event)
	for _, a := range m.Args {
		size += len(a) + 5
	}
	kind := byte(packetEvent)
	if m.Kind == tidemark.AnswerMessage {
		kind = packetAck
	}
	b := append(make([]byte, 0, size), engineMessage)
	if n := len(m.Attachments); n > 0 {
		b = append(b, kind-packetEvent+packetBinaryEvent)
		b = append(strconv.AppendInt(b, int64(n), 10), '-')
	} else {
		b = append(b, kind)
	}
	if m.Kind != tidemark.EventMessage {
		b = strconv.AppendUint(b, m.ID, 10)
	}
	return appendArguments(b, m)
}

func appendArguments(b []byte, m *tidemark.Message) []byte {
	b = append(b, '[')
	if m.Kind != tidemark.AnswerMessage {
		b = append(tidemark.AppendString(b, m.Event), ',')
	}
	for _, a := range m.Args {
		if a == nil {
			a = []byte("null")
		}
		b = append(append(b, a...), ',')
	}
	if b[len(b)-1] == ',' {
		b[len(b)-1] = ']'
		return b
	}
	return append(b, ']')
}

// encodeConnected is the server's answer to CONNECT.
func encodeConnected(w tidemark.Welcome) []byte {
	b := tidemark.AppendString([]byte(`40{"sid":`), w.ID)
	if w.Session != "" {
		b = tidemark.AppendString(append(b, `,"pid":`...), w.Session)
	}
	return append(b, '}')
}

// encodeRefused is the server's refusal of CONNECT.
func encodeRefused(e *tidemark.Error) []byte {
	b := tidemark.AppendString([]byte(`44{"message":`), e.Message)
	b = tidemark.AppendString(append(b, `,"data":{"code":`...), string(e.Code))
	return append(b, "}}"...)
}

// encodeNoNamespace refuses a namespace other than the main one.
func encodeNoNamespace(name string) []byte {
	return []byte("44" + name + `,{"message":"Invalid namespace"}`)
}
