package equality_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-sync/tidemark"
)

// columnType is one way to have a column: the kind, the application's Go type, and
// how the databases declare it. draw makes the JSON text of a value, canonical or not.
type columnType struct {
	kind     tidemark.Kind
	typ      reflect.Type
	bun      string // the type in the bun tag
	postgres []string
	sqlite   string
	draw     func(*rapid.T) string
}

const enumLabels = `'', 'sad', 'Sad', 'it''s ok', 'é'`

var columnTypes = []columnType{
	{tidemark.Text, reflect.TypeFor[*string](), "text", []string{"text", "varchar", `text COLLATE "en-x-icu"`, `varchar(100) COLLATE "de-x-icu"`}, "TEXT", drawText},
	{tidemark.Integer, reflect.TypeFor[*int64](), "", []string{"bigint"}, "INTEGER", drawInteger},
	{tidemark.Double, reflect.TypeFor[*float64](), "", []string{"double precision"}, "DOUBLE PRECISION", drawDouble},
	{tidemark.Bool, reflect.TypeFor[*bool](), "", []string{"boolean"}, "BOOLEAN", sampled("true", "false")},
	{tidemark.Timestamp, reflect.TypeFor[*time.Time](), "", []string{"timestamptz", "timestamp"}, "TIMESTAMP", drawTimestamp},
	{tidemark.Bytes, reflect.TypeFor[[]byte](), "", []string{"bytea"}, "BLOB", drawBytes},
	{tidemark.JSON, reflect.TypeFor[json.RawMessage](), "jsonb", []string{"jsonb", "json"}, "JSONB", drawJSON},
	{tidemark.Numeric, reflect.TypeFor[*string](), "numeric", []string{"numeric"}, "NUMERIC", drawNumeric},
	{tidemark.UUID, reflect.TypeFor[*string](), "uuid", []string{"uuid"}, "UUID", drawUUID},
	{tidemark.Date, reflect.TypeFor[*time.Time](), "date", []string{"date"}, "DATE", drawDate},
	{tidemark.Date, reflect.TypeFor[*string](), "date", []string{"date"}, "DATE", drawDate},
	{tidemark.TimeOfDay, reflect.TypeFor[*string](), "time", []string{"time"}, "TIME", drawTimeOfDay},
	{tidemark.Enum, reflect.TypeFor[*string](), "", []string{"mood"}, "TEXT", sampled(`""`, `"sad"`, `"Sad"`, `"it's ok"`, `"é"`)},
}

func sampled(values ...string) func(*rapid.T) string {
	return func(t *rapid.T) string { return rapid.SampledFrom(values).Draw(t, "value") }
}

// either draws from a list of values that have given trouble somewhere, or any.
func either[V any](t *rapid.T, hard []V, any *rapid.Generator[V]) V {
	return rapid.OneOf(rapid.SampledFrom(hard), rapid.SampledFrom(hard), any).Draw(t, "value")
}

func quoted(s string) string { return string(tidemark.AppendString(nil, s)) }

// syllables are what texts are made of: mixed case, composed and combining
// characters, what folds or expands in some collation, code points whose order in
// UTF-16 is another, and what SQL and JSON write in a special way.
var syllables = []string{
	"", "a", "A", "b", "B", "z", "Z", "á", "a\u0301", "Á", "ä", "ae", "ß", "ss", "ẞ", "İ", "i", "ı", "I", "ﬀ", "ff", "ñ", "n\u0303", "\u0301",
	"Å", "\u212b", "0", "9", "10", "-", "_", "%", " ", "  ", "\u00a0", "'", `"`, `\`, "\t", "\n", "\r\n", "\x01", "\x7f", "\u2028", "\ufeff", "\ufffd", "\uffff",
	"\ue000", "\U00010000", "😀", "👩‍👩‍👧", "\U0010ffff", "日本", "本日", "ا", "{}", "null", "$1", "?", "1e3", "0x10",
}

func drawString(t *rapid.T, most int) string {
	made := strings.Join(rapid.SliceOfN(rapid.SampledFrom(syllables), 0, 4).Draw(t, "syllables"), "")
	s := either(t, []string{made}, rapid.StringN(0, most, 4*most))
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "")
}

func drawText(t *rapid.T) string { return quoted(drawString(t, 20)) }

func drawInteger(t *rapid.T) string {
	hard := []int64{0, 1, -1, 9, 10, 1 << 31, -1 << 31, 1<<53 - 1, 1 << 53, 1<<53 + 1, -1<<53 - 1, 1<<62 + 1, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1}
	n := either(t, hard, rapid.Int64())
	text := strconv.FormatInt(n, 10)
	if n > -1000 && n < 1000 && rapid.Bool().Draw(t, "decimal") {
		text += ".0" // the same number
	}
	return text
}

func drawDouble(t *rapid.T) string {
	hard := []float64{
		0, math.Copysign(0, -1), 1, -1, 0.1, 0.2, 0.30000000000000004, 0.3, 1.5, 1 << 53, 1<<53 + 2, 1 << 63, -1 << 63, 1e21, 1e-7, 123456789012345680000,
		math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64, 2.2250738585072014e-308, 9007199254740993, 3.141592653589793,
	}
	f := either(t, hard, rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }))
	return strconv.FormatFloat(f, 'g', -1, 64) // -0 stays -0
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro()

func drawTimestamp(t *rapid.T) string {
	hard := []int64{
		-62167219200000000, -62167219199999999, -62135596800000000, -62135596800000001, -1, 0, 1, 999, 1000, 253402300799999999, 253402300799999998,
		noon, noon + 1, noon - 1, noon + 1000, noon + 100000, noon + 120000, noon + 123000, noon + 123400, noon + 123456, noon + 999999, noon + 1000000, noon + 3600000000,
	}
	us := either(t, hard, rapid.Int64Range(-62167219200000000, 253402300799999999))
	at := time.UnixMicro(us).In(time.FixedZone("", 60*rapid.SampledFrom([]int{0, 0, 60, -210, 345}).Draw(t, "offset")))
	if y := at.Year(); y < 0 || y > 9999 {
		at = at.UTC()
	}
	return quoted(at.Format("2006-01-02T15:04:05.999999Z07:00"))
}

func drawBytes(t *rapid.T) string {
	hard := [][]byte{{}, {0}, {0, 0}, {255}, []byte("a"), []byte("A"), []byte(" "), {'\\', 'x', '4', '1'}, {0xc3}}
	return quoted(base64.StdEncoding.EncodeToString(either(t, hard, rapid.SliceOfN(rapid.Byte(), 0, 40))))
}

func drawJSON(t *rapid.T) string {
	return either(t, []string{
		`{}`, `[]`, `""`, `"null"`, `"1"`, `0`, `-0`, `1.0`, `1e2`, `9007199254740993`, `1e300`, `true`, `false`, `[null]`, `{"a":null}`, `{"b":1,"a":[{"é":"😀"}]}`, `{"":""}`, `"a\u0301\"\\\n"`, `[[[1,[2]]]]`, `[[[[[[[[[]]]]]]]]]`, `{"a":[{"a":[{"a":[{"a":[1]}]}]}]}`,
	}, rapid.Custom(func(t *rapid.T) string { return `{"k":[` + drawText(t) + `,` + drawInteger(t) + `]}` }))
}

// drawNumeric keeps to 15 digits, which is what SQLite's NUMERIC holds.
func drawNumeric(t *rapid.T) string {
	made := rapid.Custom(func(t *rapid.T) string {
		return strconv.FormatInt(rapid.Int64Range(-999_999_999, 999_999_999).Draw(t, "whole"), 10) + "." + strconv.Itoa(rapid.IntRange(1, 99_999).Draw(t, "decimals"))
	})
	return quoted(either(t, []string{"0", "-0", "1", "1.0", "1.50", "1.5", "-1.5", "0.1", "0.10", "0.3", "100", "1e2", "1e20", "123456789.012345", "0.000001", "1e-6", "99999999999999.9", "-7"}, made))
}

func drawUUID(t *rapid.T) string {
	return quoted(either(t, []string{
		"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
		"01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057", "01890a5d-ac96-774b-bcce-b302099a8058",
	}, rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)))
}

func drawDate(t *rapid.T) string {
	days := rapid.Custom(func(t *rapid.T) string {
		return time.UnixMicro(noon).UTC().AddDate(0, 0, rapid.IntRange(-700_000, 700_000).Draw(t, "days")).Format(time.DateOnly)
	})
	return quoted(either(t, []string{"0000-01-01", "0000-02-29", "0001-01-01", "1582-10-10", "1969-12-31", "1970-01-01", "2026-02-28", "2026-03-01", "2026-03-02", "9999-12-31"}, days))
}

func drawTimeOfDay(t *rapid.T) string {
	some := rapid.Custom(func(t *rapid.T) string {
		return time.UnixMicro(rapid.Int64Range(0, 86_399_999_999).Draw(t, "time")).UTC().Format("15:04:05.999999")
	})
	return quoted(either(t, []string{"00:00:00", "00:00:00.000001", "12:00:00", "12:00:00.0", "12:00:00.1", "12:00:00.10", "12:00:00.09", "23:59:59.999999", "23:59:59"}, some))
}

// column is a column of a drawn table.
type column struct {
	columnType
	name     string
	postgres string
	required bool
	indexed  bool // in the databases
	local    bool // in the client's store
	pool     []string
}

// names are harmless, need quotes, or are those that statements of ours use.
var names = []string{"name", "Name", "select", "order", "with space", "ünï", "c0", "c1", "u", "t", "x", "m", "o", "s", "value", "key", "row", "base", "pending", "created_at", "uids", "x0"}

func drawColumns(t *rapid.T) []column {
	picked := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 2, 7, strings.ToLower).Draw(t, "names")
	columns := make([]column, len(picked))
	for i, name := range picked {
		c := column{columnType: rapid.SampledFrom(columnTypes).Draw(t, "type"), name: name}
		c.postgres = rapid.SampledFrom(c.columnType.postgres).Draw(t, "postgres")
		c.required = rapid.IntRange(0, 4).Draw(t, "required") == 0
		c.indexed, c.local = rapid.Bool().Draw(t, "indexed"), rapid.Bool().Draw(t, "local")
		for range rapid.IntRange(2, 6).Draw(t, "values") {
			c.pool = append(c.pool, c.draw(t))
		}
		columns[i] = c
	}
	return columns
}

// value draws what rows have: a value of the pool, so that clauses hit, or null.
func (c *column) value(t *rapid.T) string {
	if !c.required && rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		return "null"
	}
	return rapid.SampledFrom(c.pool).Draw(t, "value")
}

// literal draws what clauses have: mostly a value that a row may have, else any.
func (c *column) literal(t *rapid.T) string {
	if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
		return c.draw(t)
	}
	return rapid.SampledFrom(c.pool).Draw(t, "value")
}

// term draws what a clause asks of the column, as JSON.
func (c *column) term(t *rapid.T) string {
	kind := c.kind
	switch n := rapid.IntRange(0, 11).Draw(t, "term"); {
	case n == 0 || !kind.Comparable():
		return rapid.SampledFrom([]string{"null", "null", `{"in":[null]}`}).Draw(t, "null")
	case n <= 2:
		return c.list(t)
	case n <= 5 || !kind.Ordered():
		return c.literal(t)
	}
	bounds := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"gt", "gte", "lt", "lte"}), 1, 3, rapid.ID).Draw(t, "bounds")
	for i, b := range bounds {
		value := c.literal(t)
		if rapid.IntRange(0, 30).Draw(t, "null bound") == 0 {
			value = "null"
		}
		bounds[i] = `"` + b + `":` + value
	}
	return "{" + strings.Join(bounds, ",") + "}"
}

// list draws which values the column may have: mostly a few, sometimes as many as there may be, or none.
func (c *column) list(t *rapid.T) string {
	values := rapid.SliceOfN(rapid.Custom(c.literal), 1, 4).Draw(t, "values")
	switch rapid.IntRange(0, 19).Draw(t, "list") {
	case 0:
		values = nil
	case 1:
		for len(values) < tidemark.MaxValues-1 {
			values = append(values, values[0])
		}
		if c.kind == tidemark.Integer || c.kind == tidemark.Double {
			for i := range values[2:] {
				values[i+2] = strconv.Itoa(i * 3)
			}
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "null listed") == 0 {
		values = append(values, "null")
	}
	return `{"in":[` + strings.Join(values, ",") + `]}`
}

// drawWhere draws a clause over the columns and uid.
func drawWhere(t *rapid.T, columns []column) string {
	n := rapid.IntRange(-6, 3).Draw(t, "alternatives")
	if n <= 0 {
		return "{" + drawTerms(t, columns, 1) + "}"
	}
	where := drawTerms(t, columns, 0)
	if where != "" {
		where += ","
	}
	alternatives := make([]string, n)
	for i := range alternatives {
		alternatives[i] = "{" + drawTerms(t, columns, 1) + "}"
	}
	return "{" + where + `"$or":[` + strings.Join(alternatives, ",") + "]}"
}

// drawTerms draws members of a clause.
func drawTerms(t *rapid.T, columns []column, least int) string {
	terms := make([]string, 0, 3)
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(columns)-1), least, 2+least, rapid.ID).Draw(t, "fields") {
		terms = append(terms, quoted(columns[i].name)+":"+columns[i].term(t))
	}
	return strings.Join(terms, ",")
}

// drawUIDs draws n different uids, in no order.
func drawUIDs(t *rapid.T, n int) []string {
	used := map[string]bool{}
	var uids []string
	for len(uids) < n {
		uid := drawString(t, 20)
		if tidemark.CheckUID(uid) != nil || used[uid] {
			uid = fmt.Sprintf("u%d", len(uids))
		}
		if !used[uid] {
			used[uid] = true
			uids = append(uids, uid)
		}
	}
	return uids
}

// uidColumn is uid as a column that clauses may name.
func uidColumn(uids []string) column {
	c := column{columnType: columnTypes[slices.IndexFunc(columnTypes, func(c columnType) bool { return c.kind == tidemark.Text })], name: "uid", required: true}
	for _, uid := range uids {
		c.pool = append(c.pool, quoted(uid))
	}
	return c
}
