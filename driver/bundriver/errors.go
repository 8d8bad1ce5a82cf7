package bundriver

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-sync/tidemark"
)

func unavailable(cause error) error {
	return tidemark.Wrap(cause, tidemark.CodeUnavailable, "the database is not available")
}

// retryError is a failure that the same transaction need not meet again: a
// deadlock, or a row that somebody else changed in between.
type retryError struct{ cause error }

func (e *retryError) Error() string { return e.cause.Error() }
func (e *retryError) Unwrap() error { return e.cause }

var errRaced = &retryError{errors.New("bundriver: the row was changed by somebody else in between")}

func constraint(cause error, kind, field string) error {
	message := map[string]string{
		tidemark.ConstraintRequired:  "a required column has no value",
		tidemark.ConstraintUnique:    "another row has this value already",
		tidemark.ConstraintReference: "the row that is referred to does not exist, or this one is still referred to",
		tidemark.ConstraintCheck:     "a rule of the database refuses the row",
	}[kind]
	if field != "" {
		message = field + ": " + message
	}
	e := tidemark.Wrap(cause, tidemark.CodeConstraint, "%s", message)
	e.Field, e.Kind = field, kind
	return e
}

// lost reports whether err is about the connection and not about the statement.
func lost(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	for _, known := range []error{driver.ErrBadConn, net.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return true
		}
	}
	text := err.Error() // pgx and database/sql have no names for these
	return strings.Contains(text, "conn closed") || strings.Contains(text, "EOF") ||
		strings.Contains(text, "connection reset") || strings.Contains(text, "broken pipe") || strings.Contains(text, "database is closed")
}

func internal(err error) error {
	return tidemark.Wrap(err, tidemark.CodeInternal, "the database refuses the statement")
}

// sqlState returns the SQLSTATE of err with the column and the constraint that it
// names, for pgx and for bun's pgdriver.
func sqlState(err error) (state, column, name string) {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code, e.ColumnName, e.ConstraintName
	}
	if e, ok := errors.AsType[interface {
		error
		Field(byte) string
	}](err); ok {
		return e.Field('C'), e.Field('c'), e.Field('n')
	}
	if e, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		state = e.SQLState()
	}
	return state, "", ""
}

func (postgres) translate(err error, m *model) error {
	state, column, name := sqlState(err)
	if state == "" {
		if lost(err) {
			return unavailable(err)
		}
		return internal(err)
	}
	if m != nil && column == "" {
		column = m.constraints[name]
	}
	if m != nil && m.byName[column] == nil {
		column = "" // of another table, which a trigger wrote
	}
	switch state {
	case "23502":
		return constraint(err, tidemark.ConstraintRequired, column)
	case "23505":
		if column == "uid" {
			return &retryError{err} // somebody else has just inserted the row
		}
		return constraint(err, tidemark.ConstraintUnique, column)
	case "23503", "23001":
		return constraint(err, tidemark.ConstraintReference, column)
	case "40001", "40P01":
		return &retryError{err}
	case "25006", "55P03", "57014": // read-only (a standby), a lock not available, a statement timeout
		return unavailable(err)
	}
	switch state[:2] {
	case "23", "44", "P0": // other constraints, WITH CHECK OPTION, RAISE in a trigger
		return constraint(err, tidemark.ConstraintCheck, column)
	case "22":
		return tidemark.Wrap(err, tidemark.CodeInvalidData, "a value does not fit its column").OnField(column)
	case "08", "53", "57", "58", "25":
		return unavailable(err)
	}
	return internal(err)
}

// The result codes of SQLite that matter here.
const (
	sqliteBusy, sqliteLocked, sqliteNoMem, sqliteReadOnly, sqliteInterrupt = 5, 6, 7, 8, 9
	sqliteIOErr, sqliteFull, sqliteCantOpen, sqliteProtocol                = 10, 13, 14, 15
	sqliteTooBig, sqliteConstraint, sqliteMismatch                         = 18, 19, 20
)

// The extended codes of SQLITE_CONSTRAINT.
const (
	sqliteForeignKey, sqliteNotNull, sqlitePrimaryKey = 787, 1299, 1555
	sqliteTrigger, sqliteUnique, sqliteDatatype       = 1811, 2067, 3091
)

// resultCode returns SQLite's extended result code, 0 when err is not SQLite's.
// The drivers are not imported, since which one there is, and whether with cgo, is
// the application's choice: modernc.org/sqlite has a method Code, and
// mattn/go-sqlite3 only a field ExtendedCode, which is read by reflection.
func resultCode(err error) int {
	if e, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok {
		return e.Code()
	}
	for ; err != nil; err = errors.Unwrap(err) {
		v := reflect.Indirect(reflect.ValueOf(err))
		if v.Kind() != reflect.Struct {
			continue
		}
		if f := v.FieldByName("ExtendedCode"); f.IsValid() && f.CanInt() {
			return int(f.Int())
		}
	}
	return 0
}

func (sqlite) translate(err error, m *model) error {
	code := resultCode(err)
	switch code & 0xff {
	case 0:
		if lost(err) {
			return unavailable(err)
		}
		return internal(err)
	case sqliteBusy, sqliteLocked, sqliteNoMem, sqliteReadOnly, sqliteInterrupt, sqliteIOErr, sqliteFull, sqliteCantOpen, sqliteProtocol:
		return unavailable(err)
	case sqliteTooBig, sqliteMismatch:
		return tidemark.Wrap(err, tidemark.CodeInvalidData, "a value does not fit its column")
	case sqliteConstraint:
		return violated(err, code, sqliteField(err, m))
	}
	return internal(err)
}

func violated(err error, code int, field string) error {
	switch code {
	case sqliteNotNull:
		return constraint(err, tidemark.ConstraintRequired, field)
	case sqliteUnique, sqlitePrimaryKey:
		return constraint(err, tidemark.ConstraintUnique, field)
	case sqliteForeignKey:
		return constraint(err, tidemark.ConstraintReference, "")
	case sqliteDatatype:
		return tidemark.Wrap(err, tidemark.CodeInvalidData, "a value does not fit its column").OnField(field)
	}
	return constraint(err, tidemark.ConstraintCheck, field)
}

// sqliteField takes the column out of "UNIQUE constraint failed: post.title",
// the only place where SQLite names it; "" when there are several, or none.
func sqliteField(err error, m *model) string {
	_, list, ok := strings.Cut(err.Error(), "constraint failed: ")
	if !ok || m == nil || strings.Contains(list, ",") {
		return ""
	}
	name := strings.TrimPrefix(list, m.name+".")
	if m.byName[name] == nil {
		return ""
	}
	return name
}
