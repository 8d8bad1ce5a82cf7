package bundriver

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// postgres is PostgreSQL 14 or newer. Every value is bound as text and cast in the
// statement, which every database/sql driver can do, whatever its way of
// sending parameters.
type postgres struct{ schema string } // quoted

func (postgres) check(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	var version, digits int
	var encoding, conforming, commit string
	err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('extra_float_digits')::int,
		current_setting('server_encoding'), current_setting('standard_conforming_strings'), current_setting('synchronous_commit')`).
		Scan(&version, &digits, &encoding, &conforming, &commit)
	switch {
	case err != nil:
		return err
	case version < 140000:
		return fmt.Errorf("PostgreSQL %d is older than 14", version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s, which cannot hold every text: UTF8 is needed", encoding)
	case conforming != "on":
		return fmt.Errorf("standard_conforming_strings is off: bun writes values into its statements and would let them become SQL")
	case digits < 1:
		return fmt.Errorf("extra_float_digits is %d, which changes numbers: 1 or more is needed", digits)
	}
	if commit == "off" {
		log.Warn("synchronous_commit is off: a crash of the database loses writes that clients saw confirmed")
	}
	return nil
}

func (p postgres) uids() string { return p.schema + `."uids"` }

func (postgres) placeholder(n int) string { return "CAST($" + strconv.Itoa(n) + " AS text)" }

func (p postgres) list(n, count int) string {
	return one("json_array_elements_text("+p.placeholder(n)+"::json) AS x(u)", count)
}

// one tells the planner when a source has one row. It takes any for a hundred, and for
// a hundred rows it reads whole tables of some thousands.
func one(source string, count int) string {
	if count == 1 {
		return "(SELECT * FROM " + source + " LIMIT 1) AS x"
	}
	return source
}

func (p postgres) batch(columns []*column, count int) source {
	s := source{uid: "x.u", object: true}
	types := []string{"u text"}
	for i, c := range columns {
		name := member(i)
		expr := "x." + name
		typ := c.base
		switch c.kind {
		case tidemark.Text, tidemark.Enum, tidemark.Bytes:
			typ = "text" // a cast to varchar(n) would cut the text, an assignment refuses it
			if c.kind == tidemark.Bytes {
				expr = "decode(" + expr + ", 'base64')"
			} else if c.kind == tidemark.Enum {
				expr += "::" + c.base
			}
		case tidemark.Integer:
			typ = "bigint"
		case tidemark.Double:
			typ = "double precision"
		case tidemark.Numeric:
			typ = "numeric"
		case tidemark.Timestamp:
			typ = "timestamptz"
			if c.base == "timestamp" {
				expr = "(" + expr + " AT TIME ZONE 'UTC')"
			}
		}
		types = append(types, name+" "+typ)
		s.columns = append(s.columns, expr)
	}
	s.from = one("json_to_recordset("+p.placeholder(1)+"::json) AS x("+strings.Join(types, ", ")+")", count)
	return s
}

// member is the name of a batch's i-th column.
func member(i int) string { return "c" + strconv.Itoa(i) }

var yearZero = []byte(`"0000-`)

func (postgres) appendValue(b []byte, c *column, raw json.RawMessage) []byte {
	if (c.kind == tidemark.Timestamp || c.kind == tidemark.Date) && bytes.HasPrefix(raw, yearZero) {
		b = append(b, `"0001-`...)
		b = append(b, raw[len(yearZero):len(raw)-1]...)
		return append(b, ` BC"`...)
	}
	return append(b, raw...)
}

// era gives a date of the year 0 as PostgreSQL knows it.
func era(s string) string {
	if strings.HasPrefix(s, "0000-") {
		return "0001-" + s[5:] + " BC"
	}
	return s
}

func (postgres) readMeta(name string) string { return "m." + name }

func (postgres) isNull(c *column) string {
	col := "t." + c.sql
	switch c.kind {
	case tidemark.Double, tidemark.Numeric:
		return "(" + col + " IS NULL OR NOT abs(" + col + ") < 'Infinity')"
	case tidemark.Timestamp:
		return "(" + col + " IS NULL OR " + col + " < '0001-01-01 00:00:00+00 BC' OR " + col + " >= '10000-01-01 00:00:00+00')"
	case tidemark.Date:
		return "(" + col + " IS NULL OR " + col + " < '0001-01-01 BC' OR " + col + " >= '10000-01-01')"
	case tidemark.TimeOfDay:
		return "(" + col + " IS NULL OR " + col + " = '24:00:00')"
	case tidemark.JSON:
		if !strings.HasSuffix(c.base, "[]") {
			return "(" + col + " IS NULL OR " + col + "::text = 'null')"
		}
	}
	return col + " IS NULL"
}

func (p postgres) compare(cl *clause, c *column, operator string, v tidemark.Value) string {
	col, lit := "t."+c.sql, v.Text()
	cast := ""
	switch c.kind {
	case tidemark.Text:
		if c.base == "character" {
			col += "::text"
		}
		if operator != "=" {
			col += ` COLLATE "C"`
		}
	case tidemark.Enum:
		col += "::text"
	case tidemark.Integer:
		lit, cast = strconv.FormatInt(v.Int(), 10), "::bigint"
	case tidemark.Double:
		lit, cast = strconv.FormatFloat(v.Float(), 'g', -1, 64), "::double precision"
	case tidemark.Bool:
		lit, cast = strconv.FormatBool(v.Int() == 1), "::boolean"
	case tidemark.Timestamp:
		lit = era(string(tidemark.AppendInstant(nil, v.Int())))
		cast = "::timestamptz"
		if c.base == "timestamp" {
			cast = "::timestamp" // which leaves the Z unread: the column holds UTC
		}
	case tidemark.Bytes:
		return col + operator + "decode(" + cl.bind(lit) + ", 'base64')"
	case tidemark.Numeric:
		cast = "::numeric"
	case tidemark.UUID:
		cast = "::uuid"
	case tidemark.Date:
		lit, cast = era(lit), "::date"
	case tidemark.TimeOfDay:
		cast = "::time"
	}
	return col + operator + cl.bind(lit) + cast
}

func (postgres) limits(c *column) (low, high *tidemark.Bound) {
	switch c.kind {
	case tidemark.Double:
		return lowestDouble, highestDouble
	case tidemark.Timestamp:
		return lowestInstant, highestInstant
	case tidemark.Date:
		return lowestDate, highestDate
	case tidemark.TimeOfDay:
		return nil, limit(tidemark.TimeOfDay, `"23:59:59.999999"`)
	}
	return nil, nil
}

// begin asks for READ COMMITTED, whatever the application's default: each
// statement must see what was committed before it, once the metadata is locked.
// All that a write reads it finds by uid; but a plan made while the tables were small,
// or for the hundred rows that the planner takes every batch for, would read them whole.
func (postgres) begin() string {
	return "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL enable_seqscan = off"
}

func (postgres) options() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

func (postgres) seize() string { return "" }

func (postgres) checkNow() string { return "SET CONSTRAINTS ALL IMMEDIATE" }

func (p postgres) lock(metadata string, count int) string {
	return "SELECT uid FROM " + metadata + " WHERE uid IN (SELECT u FROM " + p.list(1, count) + ") ORDER BY uid FOR UPDATE"
}

// stampOfMeta is T of the metadata m, to the letter of [tidemark.Meta.T] and
// [tidemark.StampOf]: no stamp at all counts as 1970, and 1970 as one microsecond more.
const stampOfMeta = `CASE coalesce(m.deleted_at, m.updated_at, m.created_at) WHEN 'epoch'
	THEN timestamp '1970-01-01 00:00:00.000001' ELSE coalesce(m.deleted_at, m.updated_at, m.created_at, 'epoch') END`

// claim restates of Decide what it does to metadata when the write wins. It must
// be in the statement: a decision on metadata that was read before could be
// overtaken. Metadata that is not returned is locked none the less.
func (p postgres) claim(metadata string, op tidemark.Op, count int) string {
	column, set, operator := "created_at", "created_at = EXCLUDED.created_at, updated_at = NULL, deleted_at = NULL", "<"
	switch op {
	case tidemark.Update:
		column, set = "updated_at", "updated_at = EXCLUDED.updated_at, deleted_at = NULL"
	case tidemark.Delete:
		column, set, operator = "deleted_at", "deleted_at = EXCLUDED.deleted_at", "<="
	}
	src := p.batch(metaTimes[:1], count)
	return `WITH x AS MATERIALIZED (SELECT ` + src.uid + ` AS u, ` + src.columns[0] + ` AS s FROM ` + src.from + `),
	fresh AS (INSERT INTO ` + p.uids() + ` (uid, model) SELECT x.u, CAST($2 AS text) FROM x ORDER BY x.u ON CONFLICT (uid) DO NOTHING RETURNING uid),
	mine AS (SELECT uid FROM fresh UNION ALL SELECT o.uid FROM ` + p.uids() + ` o JOIN x ON o.uid = x.u WHERE o.model = CAST($2 AS text))
	INSERT INTO ` + metadata + ` AS m (uid, ` + column + `) SELECT x.u, x.s FROM x JOIN mine ON mine.uid = x.u ORDER BY x.u
	ON CONFLICT (uid) DO UPDATE SET ` + set + ` WHERE ` + stampOfMeta + ` ` + operator + ` EXCLUDED.` + column + `
	RETURNING m.uid, m.created_at, m.updated_at, m.deleted_at`
}
