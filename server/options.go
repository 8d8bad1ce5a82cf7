package server

import (
	"cmp"
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// Options are the settings of a [Server]. The zero value, and nil, are usable.
type Options struct {
	// Logger gets what a server has to say: errors that are kept from clients with
	// their causes, refusals, sessions. Row values and tokens are never logged.
	// Defaults to discarding.
	Logger *slog.Logger

	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time

	// MaxDrift is how far ahead of Now a client's stamp may be before it is
	// clamped to the server's clock. Defaults to tidemark.DefaultMaxDrift, one minute.
	MaxDrift time.Duration

	// MaxOutstanding is how many calls of one session may wait for their answers;
	// those beyond are answered with CodeLimit. Defaults to 1,024.
	MaxOutstanding int

	// MaxOutstandingBytes is how many bytes such calls of one session may have, with their
	// attachments; those beyond are answered with CodeLimit. One may exceed it when no other waits. Defaults to 64 MiB.
	MaxOutstandingBytes int

	// MaxScopes is how many scopes a session may hold; those beyond are refused with
	// CodeLimit. Defaults to 128.
	MaxScopes int

	// PageBytes is about how long a page of rows is, in bytes. Defaults to 256 KiB.
	PageBytes int

	// CursorInterval is how long after changes the sessions that were told of them, and all others with
	// scopes, hear from where they go on when they come back; until then they would be sent the
	// same again, which does no harm. Where another process, or code that calls the driver and not the
	// server, writes the models too, this server's sessions do not hear of that live: they keep the
	// cursors that they have, and get it when they come back. Defaults to 5 seconds; negative means never.
	CursorInterval time.Duration

	// MaxPush is how many mutations one push may have; a larger one is CodeLimit. Defaults to 500.
	MaxPush int

	// CallTimeout is how long one call may take, after which its context ends and
	// the answer is CodeTimeout. Defaults to one minute; negative means no bound.
	CallTimeout time.Duration

	// RefuseUnknownFields refuses writes with members that the model lacks, as
	// CodeUnknownField. Otherwise they are left out, and logged once a field.
	RefuseUnknownFields bool

	// IntegersAsText sends the integers of models that are beyond ±2^53 as strings to
	// sessions, and reads such strings in data and wheres as integers.
	// JavaScript rounds larger numbers without a word, and a row that was read
	// and written back is then damaged. A client that does not expect the string
	// compares and adds it as text; so both settings are a hazard where such
	// integers exist, and neither matters where they do not. Defaults to numbers.
	IntegersAsText bool

	// Recovery is about clients whose line broke and that come back. It is on by default.
	Recovery Recovery

	// Transfer is about pages that are loaded anew. It is off by default.
	Transfer Transfer

	// NewID makes the names of sessions; they must be unique, and hard to guess.
	// Defaults to 26 random letters and digits.
	NewID func() string
}

const (
	defaultOutstanding = 1024
	defaultWaiting     = 64 << 20
	defaultTimeout     = time.Minute
	defaultPush        = 500
	defaultScopes      = 128
	defaultPage        = 256 << 10
	defaultCursor      = 5 * time.Second

	defaultKept         = 2 * time.Minute
	defaultKeptBytes    = 16 << 20
	defaultKeptSessions = 10_000
)

// complete returns a copy of o, which may be nil, with the defaults filled in.
func (o *Options) complete() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.MaxDrift < 0 || c.MaxOutstanding < 0 || c.MaxOutstandingBytes < 0 || c.MaxPush < 0 || c.MaxScopes < 0 || c.PageBytes < 0 {
		return c, tidemark.NewError(tidemark.CodeInvalidRequest, "server: MaxDrift, MaxOutstanding, MaxOutstandingBytes, MaxPush, MaxScopes and PageBytes must not be negative")
	}
	if r, t := c.Recovery, c.Transfer; r.MaxAge < 0 || r.MaxBytes < 0 || r.MaxSessions < 0 || t.MaxAge < 0 || t.MaxSessions < 0 {
		return c, tidemark.NewError(tidemark.CodeInvalidRequest, "server: the bounds of Recovery and Transfer must not be negative")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxDrift == 0 {
		c.MaxDrift = tidemark.DefaultMaxDrift
	}
	if c.MaxOutstanding == 0 {
		c.MaxOutstanding = defaultOutstanding
	}
	c.MaxOutstandingBytes = cmp.Or(c.MaxOutstandingBytes, defaultWaiting)
	c.MaxPush = cmp.Or(c.MaxPush, defaultPush)
	c.MaxScopes = cmp.Or(c.MaxScopes, defaultScopes)
	c.PageBytes = cmp.Or(c.PageBytes, defaultPage)
	c.CursorInterval = cmp.Or(c.CursorInterval, defaultCursor)
	if c.CallTimeout == 0 {
		c.CallTimeout = defaultTimeout
	}
	c.Recovery.MaxAge = cmp.Or(c.Recovery.MaxAge, defaultKept)
	c.Recovery.MaxBytes = cmp.Or(c.Recovery.MaxBytes, defaultKeptBytes)
	c.Recovery.MaxSessions = cmp.Or(c.Recovery.MaxSessions, defaultKeptSessions)
	c.Transfer.MaxAge = cmp.Or(c.Transfer.MaxAge, defaultKept)
	c.Transfer.MaxSessions = cmp.Or(c.Transfer.MaxSessions, defaultKeptSessions)
	if c.NewID == nil {
		c.NewID = rand.Text
	}
	return c, nil
}
