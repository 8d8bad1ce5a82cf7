package socketio

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/tidemark-sync/tidemark"
)

// maxDepth is how deep the arguments of a client's event may nest, the array of
// arguments itself included: seven levels down to a column of a push, and those of its value.
const maxDepth = 7 + tidemark.MaxJSONDepth

// maxValues bounds the values of a payload by its size, so that a list of them,
// at 24 bytes each, stays within eight times what was sent.
func maxValues(size int) int { return tidemark.MaxJSONValues(size) }

// decoder makes messages of packets and of the binary frames that follow them.
type decoder struct {
	strict   bool // whether the peer's payloads are bounded: the server's side
	maxBytes int  // of one message with its attachments

	pending *tidemark.Message // waits for attachments
	missing int
	bytes   int // of pending so far
}

// limitError is a payload that is JSON, but more than a server takes. It is the
// request's fault, and no reason to break off.
type limitError struct {
	cause *tidemark.Error
	call  *tidemark.Message // what asked for an answer; nil when nothing did
}

func (e *limitError) Error() string { return e.cause.Error() }

// tooLargeError is a message that exceeds maxBytes by its attachments.
type tooLargeError struct{}

func (tooLargeError) Error() string { return "socketio: attachments too large" }

// message makes a message of an event or ack. It is nil when attachments are to follow.
func (d *decoder) message(p packet) (*tidemark.Message, error) {
	if d.pending != nil {
		return nil, errMalformed
	}
	m := &tidemark.Message{ID: p.id}
	answer := p.kind == packetAck || p.kind == packetBinaryAck
	switch {
	case answer && !p.hasID:
		return nil, errMalformed
	case answer:
		m.Kind = tidemark.AnswerMessage
	case p.hasID:
		m.Kind = tidemark.CallMessage
	}
	if err := d.check(p, m); err != nil {
		return nil, err
	}
	if err := parseArguments(p.payload, m); err != nil {
		return nil, err
	}
	if p.attachments == 0 {
		return m, nil
	}
	for _, a := range m.Args {
		if tidemark.CheckPlaceholders(a, p.attachments) != nil { // who replaces them may be another client
			return nil, errMalformed
		}
	}
	d.pending, d.missing, d.bytes = m, p.attachments, len(p.payload)
	return nil, nil
}

// attachment takes a binary frame. It returns the message that it completes, or nil.
func (d *decoder) attachment(b []byte) (*tidemark.Message, error) {
	if d.pending == nil {
		return nil, errMalformed
	}
	if d.bytes += len(b); d.bytes > d.maxBytes {
		return nil, tooLargeError{}
	}
	m := d.pending
	m.Attachments = append(m.Attachments, b)
	if d.missing--; d.missing > 0 {
		return nil, nil
	}
	d.pending = nil
	return m, nil
}

func (d *decoder) check(p packet, m *tidemark.Message) error {
	if !utf8.Valid(p.payload) {
		return errMalformed
	}
	if !d.strict {
		return nil
	}
	err := tidemark.CheckJSON(p.payload, tidemark.JSONLimits{Depth: maxDepth, Values: maxValues(len(p.payload))})
	if err == nil {
		return nil
	}
	if p.binary() || !json.Valid(p.payload) {
		return errMalformed
	}
	limit := &limitError{cause: tidemark.WireError(err)}
	if m.Kind == tidemark.CallMessage {
		limit.call = m
	}
	return limit
}

// parseArguments reads ["event", argument, ...], or for an answer [argument, ...].
func parseArguments(payload []byte, m *tidemark.Message) error {
	args, err := tidemark.Elements(payload)
	if err != nil {
		return errMalformed
	}
	if m.Kind == tidemark.AnswerMessage {
		m.Args = args
		return nil
	}
	if len(args) == 0 {
		return errMalformed
	}
	if m.Event, err = eventName(args[0]); err != nil {
		return err
	}
	m.Args = args[1:]
	return nil
}

// eventName reads the name of an event: a string, or, as JavaScript allows, a number.
func eventName(raw []byte) (string, error) {
	if raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
		return string(raw), nil
	}
	name, err := tidemark.DecodeString(raw)
	if err != nil || reserved(name) {
		return "", errMalformed
	}
	return name, nil
}
