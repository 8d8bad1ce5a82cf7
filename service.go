package tidemark

import (
	"encoding/json"
	"errors"
)

// The events of the wire. A client's request is the event "client-request" with
// one argument, a [Request], and is answered by an acknowledgement with one
// argument, {"result": ...} or {"error": ...}; see docs/protocol.md.
const (
	EventRequest     = "client-request"
	EventConnected   = "connected"     // server -> client: [socket id]
	EventService     = "service-event" // server -> client: [{"name", "action", "result"}]
	EventApplication = "app-event"     // server -> client: [{"type", "value"}]
	EventChanges     = "sync-changes"  // server -> client: [Changes], of the session's scopes
	EventCursor      = "sync-cursor"   // server -> client: [{"cursor"}], of all live scopes of the session

	// Of a page that was loaded anew and asks for the channels of its former session.
	EventTransferToken = "cnx-transfer-token" // client -> server: [token], of this session for its successor
	EventTransfer      = "cnx-transfer"       // client -> server: [former id, own id, token of the former]
	EventTransferAck   = "cnx-transfer-ack"   // server -> client: [former id, own id]
	EventTransferFail  = "cnx-transfer-error" // server -> client: [former id, own id]
)

// The methods of a model's service, and of the shared service sync.
const (
	MethodFindUnique = "findUnique"     // (where) -> row or null
	MethodFindMany   = "findMany"       // (where) -> [row, ...]
	MethodCreate     = "createWithMeta" // (uid, data, created_at) -> [row, meta]
	MethodUpdate     = "updateWithMeta" // (uid, data, updated_at) -> [row, meta]
	MethodDelete     = "deleteWithMeta" // (uid, deleted_at) -> [row, meta]

	ServiceSync  = "sync"
	MethodSyncGo = "go" // (model, where, dictionary) -> SyncResult

	// The methods of the second protocol, which a server has whose driver keeps a log
	// (see LogDriver). A client that finds no MethodOpen speaks the guide's.
	MethodOpen        = "open"        // (OpenRequest) -> OpenAnswer
	MethodSubscribe   = "subscribe"   // ([ScopeRequest, ...]) -> [ScopeAnswer, ...]
	MethodUnsubscribe = "unsubscribe" // ([scope, ...]) -> nothing
	MethodPull        = "pull"        // (PullRequest) -> ScopePage
	MethodPush        = "push"        // (Batch) -> PushAnswer
)

// Request is a call of a service's method.
type Request struct {
	Name   string            `json:"name"`   // the service
	Action string            `json:"action"` // the method
	Args   []json.RawMessage `json:"args"`
}

// ParseRequest reads a request's envelope. Anything but an object with a string
// name, a string action and an array args is [CodeInvalidRequest]; other members are ignored.
func ParseRequest(raw []byte) (Request, error) {
	bad := NewError(CodeInvalidRequest, "invalid client request envelope")
	var r Request
	var name, action, args bool
	err := EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "name":
			r.Name, err = DecodeString(value)
			name = true
		case "action":
			r.Action, err = DecodeString(value)
			action = true
		case "args":
			r.Args, err = Elements(value)
			args = true
		}
		return err
	})
	if err != nil || !name || !action || !args {
		return Request{}, bad
	}
	return r, nil
}

// Answer is the one argument of an acknowledgement. Exactly one of Result and
// Err counts: a nil Result without Err is a method that returned nothing, and
// has no member result.
type Answer struct {
	Result json.RawMessage // what the method returned
	Err    *Error          // why it failed
	// Attachments are the binary values that placeholders in Result stand for; they travel behind it.
	Attachments [][]byte
}

// MarshalJSON gives {"result": ...}, {"error": {"code", "message"}} or {}.
func (a Answer) MarshalJSON() ([]byte, error) {
	switch {
	case a.Err != nil:
		return append(a.Err.appendJSON([]byte(`{"error":`)), '}'), nil
	case len(a.Result) == 0:
		return []byte("{}"), nil
	}
	b := make([]byte, 0, len(a.Result)+12)
	b = append(b, `{"result":`...)
	b = append(b, a.Result...)
	return append(b, '}'), nil
}

// UnmarshalJSON reads an answer. An error member that is no object, or lacks a
// code, is [CodeUnknown].
func (a *Answer) UnmarshalJSON(raw []byte) error {
	*a = Answer{}
	return EachMember(raw, func(key string, value []byte) error {
		switch key {
		case "result":
			a.Result = value
		case "error":
			a.Err = parseWireError(value)
		}
		return nil
	})
}

// appendJSON appends the error as it travels.
func (e *Error) appendJSON(b []byte) []byte {
	b = AppendString(append(b, `{"code":`...), string(e.Code))
	b = AppendString(append(b, `,"message":`...), e.Message)
	if e.Field != "" {
		b = AppendString(append(b, `,"field":`...), e.Field)
	}
	if e.Kind != "" {
		b = AppendString(append(b, `,"kind":`...), e.Kind)
	}
	return append(b, '}')
}

func parseWireError(raw []byte) *Error {
	e := &Error{Code: CodeUnknown}
	_ = EachMember(raw, func(key string, value []byte) error {
		s, err := DecodeString(value)
		if err != nil {
			return nil
		}
		switch key {
		case "code":
			e.Code = Code(s)
		case "message":
			e.Message = s
		case "field":
			e.Field = s
		case "kind":
			e.Kind = s
		}
		return nil
	})
	return e
}

// WireError returns err as a client may see it: an [Error] as it is, without its
// cause; an application's error without a code as [CodeUnknown] with its message;
// an error of a database as [CodeInternal], its text kept back. nil for nil.
func WireError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		c := *e
		c.cause = nil
		if c.Code == CodeInternal {
			c.Message = "internal error"
		}
		return &c
	}
	if _, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return NewError(CodeInternal, "internal error")
	}
	return NewError(CodeUnknown, "%s", err.Error())
}

// ServiceEvent is the argument of "service-event": that a method was called, with
// its result.
type ServiceEvent struct {
	Name   string          `json:"name"`             // the service
	Action string          `json:"action"`           // the method
	Result json.RawMessage `json:"result,omitempty"` // what it returned; absent for nothing
}

// ApplicationEvent is the argument of "app-event".
type ApplicationEvent struct {
	Type  string          `json:"type"`            // what clients listen for
	Value json.RawMessage `json:"value,omitempty"` // what goes with it
}
