package tidemark

import (
	"errors"
	"fmt"
)

// Code is the stable name of an error, the part of it that programs may
// depend on. It travels on the wire beside a message for people.
type Code string

// The codes that Tidemark itself produces. An application's own errors carry
// codes of its own choosing (see [NewError]).
const (
	CodeMissingService  Code = "missing-service" // there is no service of that name
	CodeMissingMethod   Code = "missing-method"  // the service has no method of that name
	CodeInvalidRequest  Code = "invalid-request" // the request itself is malformed
	CodeUnknownModel    Code = "unknown-model"   // there is no model of that name
	CodeUnknownField    Code = "unknown-field"   // the model has no such column, or hides it
	CodeInvalidWhere    Code = "invalid-where"   // a clause is malformed, or compares what cannot be compared
	CodeInvalidData     Code = "invalid-data"    // a value is not of its column's kind, or cannot be stored everywhere
	CodeInvalidStamp    Code = "invalid-stamp"   // the date of a write is missing or cannot be read
	CodeUIDTaken        Code = "uid-taken"       // the uid belongs to another row
	CodeConstraint      Code = "constraint"      // the database refuses the row; Error.Kind says by what
	CodeTooLarge        Code = "too-large"       // a message, a unit or a value is beyond its limit
	CodeLimit           Code = "limit"           // too many at once: later it may pass
	CodeDenied          Code = "denied"          // not allowed
	CodeUnauthenticated Code = "unauthenticated" // the server does not know who asks
	CodeExpired         Code = "expired"         // what says who asks is too old
	CodeCursorTooOld    Code = "cursor-too-old"  // the cursor is of another history, or what followed it is no longer kept
	CodeScopeChanged    Code = "scope-changed"   // the cursor was made under another predicate or schema
	CodeUnknownScope    Code = "unknown-scope"   // the session has no scope of that number
	CodeGap             Code = "gap"             // a batch does not begin where the client's last one ended
	CodeRepeated        Code = "repeated"        // a number came again with other content
	CodeUnit            Code = "unit"            // another write of the unit was refused
	CodeTimeout         Code = "timeout"         // there was no answer in time; it may have been done
	CodeUnavailable     Code = "unavailable"     // the server or its database could not; it may have been done
	CodeInternal        Code = "internal"        // the server failed, and would again: its log says why

	// CodeUnknown is the code of an application's error that has none.
	CodeUnknown Code = "unknown-error"
)

// The kinds of a [CodeConstraint] error.
const (
	ConstraintRequired  = "required"  // a column that may not be null was null or absent
	ConstraintUnique    = "unique"    // another row has the value
	ConstraintReference = "reference" // the row that a foreign key names does not exist, or is still referred to
	ConstraintCheck     = "check"     // any other rule of the database
)

// Error is an error with a stable code. Code and Message are safe to show to
// a client; a wrapped cause (see [Wrap]) is for the server's log only.
type Error struct {
	// Code is what programs go by.
	Code Code
	// Message is for people.
	Message string

	// Field is the column concerned, "" when there is none or it is unknown.
	Field string
	// Kind refines CodeConstraint: one of the Constraint constants.
	Kind string

	cause error
}

// NewError returns an error that reaches a client as it is: a method or a hook
// of an application returns one to refuse a call under a code of its own.
func NewError(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap is [NewError] with a cause, which errors.Is and errors.As find and which
// never leaves the process.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), cause: cause}
}

// OnField returns a copy of e about the column field.
func (e *Error) OnField(field string) *Error {
	c := *e
	c.Field = field
	return &c
}

// Error gives code and message, and the cause when there is one.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause, nil when there is none.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an [Error] of the same code, so that
//
//	errors.Is(err, &tidemark.Error{Code: tidemark.CodeInvalidWhere})
//
// holds whatever the message says.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// CodeOf returns the code of the first [Error] in err's chain, "" for nil, and
// [CodeUnknown] for an error without a code.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeUnknown
}

// Sentinels that callers test with errors.Is.
var (
	// ErrClosed is returned by everything that was closed.
	ErrClosed = errors.New("tidemark: closed")
	// ErrNotFound is returned where a row was asked for by its uid and there is none.
	ErrNotFound = errors.New("tidemark: not found")
	// ErrPending is returned by an operation that would discard writes that the server has not seen.
	ErrPending = errors.New("tidemark: writes are pending")
	// ErrOffline is returned by a call that needs a connection while there is none.
	ErrOffline = errors.New("tidemark: offline")
	// ErrNewerFile is returned for a client file that a newer version of Tidemark has written.
	ErrNewerFile = errors.New("tidemark: file was written by a newer version")
	// ErrDamaged is returned for a client file that is not what Tidemark wrote.
	ErrDamaged = errors.New("tidemark: file is damaged or not a Tidemark file")
	// ErrSlowReader is returned by Conn.Send when the peer does not read and the queue is full; the connection is closed.
	ErrSlowReader = errors.New("tidemark: peer reads too slowly")
)

// Temporary reports whether err says nothing about the request itself: the link
// broke, time ran out, the server or its database was not available, a limit was
// reached ([CodeLimit]), or credentials are missing or too old. Such a
// request is sent again; anything else is a verdict. [CodeInternal] is a verdict:
// a request that makes the server fail each time must not block those behind it.
func Temporary(err error) bool {
	switch CodeOf(err) {
	case CodeTimeout, CodeUnavailable, CodeLimit, CodeUnauthenticated, CodeExpired:
		return true
	}
	return errors.Is(err, ErrClosed) || errors.Is(err, ErrOffline) || errors.Is(err, ErrSlowReader)
}
