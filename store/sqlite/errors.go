package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// The texts of SQLite's result codes (sqlite3_errstr). They are the same under
// every Go driver, whose error types are not. The last of damagedTexts is about a value
// that no store has written: that of SQLite's JSON functions.
var (
	damagedTexts = []string{"database disk image is malformed", "file is not a database", "malformed database schema",
		"malformed JSON"}
	outageTexts = []string{"database or disk is full", "disk I/O error", "readonly database", "unable to open database file", "out of memory"}
	closedTexts = []string{"sql: database is closed"}
)

// translate gives an error of the database its meaning in Tidemark; the native one stays its cause.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && (errors.Is(err, ctx.Err()) || strings.Contains(err.Error(), "interrupted")):
		return ctx.Err()
	case errors.Is(err, sql.ErrConnDone), says(err, closedTexts):
		return fmt.Errorf("%w: %w", tidemark.ErrClosed, err)
	case says(err, damagedTexts):
		return fmt.Errorf("%w: %w", tidemark.ErrDamaged, err)
	case isBusy(err), says(err, outageTexts):
		return tidemark.Wrap(err, tidemark.CodeUnavailable, "the store's file cannot be used")
	}
	return tidemark.Wrap(err, tidemark.CodeInternal, "the store failed")
}

func says(err error, texts []string) bool {
	for _, t := range texts {
		if strings.Contains(err.Error(), t) {
			return true
		}
	}
	return false
}

func isBusy(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "database is locked") || strings.Contains(err.Error(), "database table is locked"))
}

// isStale reports that a statement was written for tables that another process has changed since.
func isStale(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "no such column") || strings.Contains(err.Error(), "no such table"))
}

// waitBusy repeats try while another process has the file locked, until ctx ends.
// SQLite's own waiting cannot be interrupted.
func waitBusy(ctx context.Context, try func() error) error {
	pause := 200 * time.Microsecond
	for {
		err := try()
		if !isBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(pause*2, 20*time.Millisecond)
		}
	}
}
