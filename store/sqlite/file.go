package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// What a file of ours begins with: SQLite's application_id and user_version.
const (
	applicationID = 0x54494445 // "TIDE"
	formatVersion = 2
)

// createTables make an empty file ours.
var createTables = append([]string{
	"CREATE TABLE tidemark_models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, fields TEXT NOT NULL)",
	"CREATE TABLE tidemark_entries (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
}, outboxTables...)

// outboxTables are the outbox. op 0 is a number that was given and is not to be given again.
var outboxTables = []string{
	`CREATE TABLE tidemark_mutations (n INTEGER PRIMARY KEY, model TEXT NOT NULL, uid TEXT NOT NULL, op INTEGER NOT NULL,
	data TEXT, stamp INTEGER NOT NULL, unit INTEGER NOT NULL, loose INTEGER NOT NULL)`,
	"CREATE INDEX tidemark_mutations_loose ON tidemark_mutations (model, uid) WHERE loose = 1",
}

// DSN returns the data source name with which the driver mattn/go-sqlite3 opens
// the file path (":memory:" for none) as [Open] wants it: synchronous=FULL, a
// busy timeout of 5 s, foreign keys on, transactions that begin deferred (the
// store begins its writing ones immediate by itself), and a cache of prepared
// statements. It does not set the journal mode: that is a property of the
// file, which Open sets to WAL only once it knows that the file is Tidemark's.
//
// A database in memory needs db.SetMaxOpenConns(1).
func DSN(path string) string { return dsn(path, "FULL") }

// DSNNormal is [DSN] with synchronous=NORMAL, which trades the last writes before
// a power failure for speed. It goes with [Options].AllowNormal.
func DSNNormal(path string) string { return dsn(path, "NORMAL") }

func dsn(path, synchronous string) string {
	name := "file::memory:"
	if path != ":memory:" {
		name = "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()
	}
	return name + "?_busy_timeout=5000&_foreign_keys=1&_stmt_cache_size=64&_synchronous=" + synchronous
}

// Create makes an empty file at path that only its owner may read and write
// (mode 0600; SQLite gives its companions -wal and -shm the same). Nothing
// happens when there is a file already. Call it before the first opening of a
// store's file, which otherwise gets the process's default mode.
func Create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// openFile makes sure that the file is ours and of this version, or makes an
// empty one ours. Nothing of a file that is something else is changed. memory says that there is no file.
func openFile(ctx context.Context, c *session, o *Options, connections int) (memory bool, err error) {
	var version int64
	err = c.snapshot(ctx, func() error { // another store may be about to make or to upgrade it
		version, err = inspect(ctx, c)
		return err
	})
	if err != nil {
		return false, err
	}
	memory, err = checkJournal(ctx, c)
	if err != nil {
		return false, err
	}
	if err := checkSettings(ctx, c, o, memory, connections); err != nil {
		return false, err
	}
	if version == 0 {
		return memory, initialise(ctx, c)
	}
	if err := checkPages(ctx, c, o); err != nil || version == formatVersion {
		return memory, err
	}
	o.Logger.InfoContext(ctx, "the file is of an older format: it is written anew", "format", version)
	return memory, upgrade(ctx, c)
}

// inspect returns the file's format, 0 for an empty file, and an error when it is not ours.
func inspect(ctx context.Context, c *session) (version int64, err error) {
	id, err := c.number(ctx, "PRAGMA application_id")
	if err != nil {
		return 0, err
	}
	version, err = c.number(ctx, "PRAGMA user_version")
	if err != nil {
		return 0, err
	}
	objects, err := c.number(ctx, "SELECT count(*) FROM sqlite_schema")
	switch {
	case err != nil:
		return 0, err
	case id == 0 && version == 0 && objects == 0:
		return 0, nil
	case id != applicationID:
		return 0, fmt.Errorf("%w: its application_id is %d", tidemark.ErrDamaged, id)
	case version > formatVersion:
		return 0, fmt.Errorf("%w: format %d, this is %d", tidemark.ErrNewerFile, version, formatVersion)
	case version < 1:
		return 0, fmt.Errorf("%w: format %d", tidemark.ErrDamaged, version)
	}
	outbox := "tidemark_mutations"
	if version == 1 {
		outbox = "tidemark_outbox"
	}
	ours, err := c.number(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('tidemark_models', 'tidemark_entries', ?)", outbox)
	if err == nil && ours != 3 {
		err = fmt.Errorf("%w: tables are missing", tidemark.ErrDamaged)
	}
	return version, err
}

// checkJournal puts a file into WAL mode, in which readers and the writer do not
// wait for one another.
func checkJournal(ctx context.Context, c *session) (memory bool, err error) {
	mode, err := c.text(ctx, "PRAGMA journal_mode")
	if err != nil || mode == "memory" {
		return mode == "memory", err
	}
	if mode != "wal" {
		err := waitBusy(ctx, func() (err error) {
			mode, err = c.text(ctx, "PRAGMA journal_mode = WAL")
			return err
		})
		if err != nil {
			return false, err
		}
	}
	if mode != "wal" {
		return false, setting("journal_mode is %s; the store needs WAL, which this file system or handle does not give", mode)
	}
	return false, nil
}

// checkSettings refuses a handle whose connections were not set up: a PRAGMA that
// was executed once reaches one connection of the pool only.
func checkSettings(ctx context.Context, c *session, o *Options, memory bool, connections int) error {
	level, err := c.number(ctx, "PRAGMA synchronous")
	if err != nil {
		return err
	}
	timeout, err := c.number(ctx, "PRAGMA busy_timeout")
	if err != nil {
		return err
	}
	wanted := int64(2) // FULL
	if o.AllowNormal {
		wanted = 1
	}
	switch {
	case timeout == 0:
		return setting("busy_timeout is 0; set it for every connection, with _busy_timeout=5000 in the data source name (see sqlite.DSN)")
	case memory && connections != 1:
		return setting("a database in memory is one connection's own; call db.SetMaxOpenConns(1)")
	case !memory && level < wanted:
		return setting("synchronous is %d; set FULL for every connection, with _synchronous=FULL in the data source name (see sqlite.DSN), or NORMAL (sqlite.DSNNormal) and Options.AllowNormal", level)
	}
	return nil
}

func setting(format string, args ...any) error {
	return errors.New("store/sqlite: " + fmt.Sprintf(format, args...))
}

// initialise makes the empty file ours in one transaction. Another process may do
// so at the same time.
func initialise(ctx context.Context, c *session) error {
	return c.transaction(ctx, func() error {
		if version, err := inspect(ctx, c); err != nil || version != 0 {
			return err
		}
		return execAll(ctx, c, append(slices.Clone(createTables),
			fmt.Sprintf("PRAGMA application_id = %d", applicationID),
			fmt.Sprintf("PRAGMA user_version = %d", formatVersion))...)
	})
}

// checkPages looks for damaged pages, in all of a small file.
func checkPages(ctx context.Context, c *session, o *Options) error {
	pages, err := c.number(ctx, "PRAGMA page_count")
	if err != nil {
		return err
	}
	size, err := c.number(ctx, "PRAGMA page_size")
	if err != nil || pages*size > o.CheckLimit {
		return err
	}
	return quickCheck(ctx, c)
}

func quickCheck(ctx context.Context, c *session) error {
	found, err := c.text(ctx, "PRAGMA quick_check(1)")
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if found != "ok" {
		return fmt.Errorf("%w: %s", tidemark.ErrDamaged, found)
	}
	return nil
}
