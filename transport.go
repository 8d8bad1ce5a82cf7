package tidemark

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
)

// A transport moves messages between a client and a server: package socketio over
// the network, package pipe in memory. On the server it offers each new
// connection to an [Acceptor]; on the client it is a [Dialer]. Package
// transporttest has what every implementation must pass.

// Acceptor takes the connections that arrive at a server. *server.Server is one.
type Acceptor interface {
	// Offer is called when a client asks to connect. It answers by offer.Accept or
	// offer.Refuse, before it returns or later. ctx ends with the connection. Offers come concurrently.
	Offer(ctx context.Context, offer Offer)
}

// Offer is one client's wish to connect. Exactly one of Accept and Refuse must be
// called, once.
type Offer interface {
	// Hello is what the client said.
	Hello() Hello
	// Accept admits the client: the messages of w.Replay go out, then the answer
	// with w.ID, then whatever is sent on the returned connection; nothing can
	// come in between. h receives from then on.
	Accept(w Welcome, h Handler) (Conn, error)
	// Refuse turns the client away with an error that it can read.
	Refuse(e *Error)
}

// Hello is what a client says when it connects.
type Hello struct {
	// Auth is the application's payload, a JSON object; nil when there is none.
	Auth json.RawMessage
	// Session and Offset ask to resume a session that broke: its private id, and the
	// offset of the last message that the client has. Empty for a new one.
	Session, Offset string
	// Request is the HTTP request that became the connection. It is set on the
	// server only, and nil on transports without one.
	Request *http.Request
}

// Welcome is what a server answers.
type Welcome struct {
	// ID is the connection's public name.
	ID string
	// Session is the private id by which the client can resume; empty when it cannot.
	Session string
	// MaxMessage is the size in bytes above which the server takes no message; 0
	// when it did not say. Set on the client only.
	MaxMessage int
	// Replay are messages that the client missed. They count to no bound of what may
	// wait for it. Set on the server only.
	Replay []*Message
}

// Dialer connects a client to its server.
type Dialer interface {
	// Dial connects and returns when the server has accepted. h receives from
	// then on, and not before Dial has returned. When the server refuses, the error is the *Error that it gave;
	// any other error is temporary.
	Dial(ctx context.Context, hello Hello, h Handler) (Conn, Welcome, error)
}

// Conn is one end of an open connection. Its methods may be called concurrently.
type Conn interface {
	// Send queues m. It does not wait for the peer. Messages arrive in the order of
	// Send, once each, or the connection ends. Errors: ErrClosed; ErrSlowReader when
	// the peer leaves too much unread, and then the connection is closed.
	//
	// m must not be changed afterwards. The same m may be sent on many connections.
	Send(m *Message) error
	// Close ends the connection for reason. It does not wait, and is idempotent; the
	// handler's Closed follows. What was queued may be lost, but not before a goodbye or
	// ClosedShutdown, if the peer takes it within a time that the transport sets.
	Close(reason CloseReason)
}

// Handler receives what arrives on a connection.
type Handler interface {
	// Receive is called for each message, in order, one at a time. While it runs
	// nothing else is read, so it should not wait.
	Receive(m *Message)
	// Closed is called once, after the last Receive.
	Closed(reason CloseReason)
}

// CloseReason says why a connection ended, in Socket.IO's words where it has some.
type CloseReason string

const (
	ClosedByClient   CloseReason = "client namespace disconnect" // the peer said goodbye: it will not resume
	ClosedByServer   CloseReason = "server namespace disconnect" // told to stay away; a Socket.IO client does not reconnect by itself
	ClosedTransport  CloseReason = "transport close"             // the connection ended without a word
	ClosedError      CloseReason = "transport error"             // the connection broke
	ClosedPing       CloseReason = "ping timeout"                // the peer gave no sign of life
	ClosedSlowReader CloseReason = "slow reader"                 // the peer left too much unread; see ErrSlowReader
	ClosedTooLarge   CloseReason = "message too large"           // a message was beyond the limit
	ClosedMalformed  CloseReason = "parse error"                 // a message could not be read
	ClosedShutdown   CloseReason = "server shutting down"        // the server ends, and may be back
)

// Resumable reports whether a session that ended so may be resumed.
func (r CloseReason) Resumable() bool { return r != ClosedByClient && r != ClosedByServer }

// MessageKind tells the three kinds of [Message] apart.
type MessageKind uint8

const (
	// EventMessage carries an event that nobody answers.
	EventMessage MessageKind = iota
	// CallMessage carries an event that the receiver answers, under the number ID.
	CallMessage
	// AnswerMessage carries the answer to the call of number ID.
	AnswerMessage
)

// Message is what travels on a connection: an event with arguments, or the answer
// to one. It is not changed once sent.
type Message struct {
	// Kind is which of the three it is.
	Kind MessageKind
	// ID pairs a call with its answer. The caller's side counts it; each direction has its own numbers.
	ID uint64
	// Event is the event's name; "" for an answer.
	Event string
	// Args are the arguments, as JSON. Where attachments stand, they have the
	// placeholder {"_placeholder":true,"num":n}.
	Args []json.RawMessage
	// Attachments are the binary arguments.
	Attachments [][]byte

	once  sync.Once
	frame []byte
}

// Frame returns encode(m), computed once however often m is sent: a message to
// thousands of connections is encoded one time. It is for transports, each of
// which must always give the same encode.
func (m *Message) Frame(encode func(*Message) []byte) []byte {
	m.once.Do(func() { m.frame = encode(m) })
	return m.frame
}

// NewEvent returns an event with the arguments, which are marshalled as JSON.
func NewEvent(event string, args ...any) (*Message, error) {
	m := &Message{Event: event, Args: make([]json.RawMessage, len(args))}
	for i, a := range args {
		raw, err := marshal(a)
		if err != nil {
			return nil, Wrap(err, CodeInvalidData, "argument %d of event %s cannot be JSON", i, event)
		}
		m.Args[i] = raw
	}
	return m, nil
}

// NewCall returns the message that asks for an answer to the event m under the number id.
func (m *Message) NewCall(id uint64) *Message {
	return &Message{Kind: CallMessage, ID: id, Event: m.Event, Args: m.Args, Attachments: m.Attachments}
}

// NewAnswer returns the answer to call m.
func (m *Message) NewAnswer(args ...json.RawMessage) *Message {
	return &Message{Kind: AnswerMessage, ID: m.ID, Args: args}
}

// Placeholder returns what stands in the arguments for the attachment of that number.
func Placeholder(num int) json.RawMessage {
	return append(strconv.AppendInt([]byte(`{"_placeholder":true,"num":`), int64(num), 10), '}')
}

// ParsePlaceholder returns the number of the attachment that raw stands for, and
// reports false when it stands for none. A placeholder without a number that makes
// sense stands for number -1.
func ParsePlaceholder(raw []byte) (num int, ok bool) {
	num = -1
	err := EachMember(raw, func(key string, v []byte) error {
		switch key {
		case "_placeholder":
			ok = string(v) == "true"
		case "num":
			n, err := strconv.Atoi(string(v))
			if num = n; err != nil || n < 0 {
				num = -1
			}
		}
		return nil
	})
	return num, ok && err == nil
}

// CheckPlaceholders refuses, with [CodeInvalidData], JSON in which a placeholder stands for none
// of n attachments: a peer that replaces them would break off.
func CheckPlaceholders(raw []byte, n int) error {
	if len(raw) == 0 {
		return nil
	}
	switch raw[0] {
	case '[':
		return EachElement(raw, func(_ int, v []byte) error { return CheckPlaceholders(v, n) })
	case '{':
		if num, ok := ParsePlaceholder(raw); ok && (num < 0 || num >= n) {
			return NewError(CodeInvalidData, "a placeholder stands for no attachment")
		}
		return EachMember(raw, func(_ string, v []byte) error { return CheckPlaceholders(v, n) })
	}
	return nil
}

func marshal(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case json.RawMessage:
		return v, nil
	case json.Marshaler: // not through json.Marshal, which would copy and escape
		return v.MarshalJSON()
	}
	return json.Marshal(v)
}
