package drivertest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

var values = []check{
	{"values come back", "a canonical value that was written is read as it is, by create, update, Find and Snapshot", func(t *testing.T, h Harness) {
		s := h.schema(t, "note")
		stamp := tidemark.Stamp(1000)
		for name, list := range samples {
			for _, v := range append(list, extraValues[name]...) {
				stamp += 2
				uid := fmt.Sprintf("u%d", stamp)
				create := h.mutation(t, tidemark.Create, "note", uid, fmt.Sprintf(`{%q:%s}`, name, v), stamp)
				update := h.mutation(t, tidemark.Update, "note", uid, fmt.Sprintf(`{%q:%s}`, name, v), stamp+1)
				want := h.full(t, "note", uid, create.Data)
				for i, o := range h.write(t, create, update) {
					if o.Err != nil || differ(s, o.Row, want) != "" {
						t.Errorf("%s %s: write %d: %v %s", name, v, i, o.Err, differ(s, o.Row, want))
					}
				}
				if d := differ(s, h.get(t, "note", uid).Row, want); d != "" {
					t.Errorf("%s %s: Snapshot: %s", name, v, d)
				}
				if rows := h.find(t, "note", tidemark.Where{"uid": uid}); len(rows) != 1 || differ(s, rows[0], want) != "" {
					t.Errorf("%s %s: Find: %s", name, v, rows)
				}
			}
		}
	}},
	{"json", "any JSON value comes back equal; JSON null is null", func(t *testing.T, h Harness) {
		s := h.schema(t, "note")
		for i, v := range []string{`{}`, `[]`, `{"a":[1,2,{"b":null}],"c":"it's \"x\" \\ é 😀"}`, `"text"`, `"12"`, `12`, `-1.5e10`, `true`, `false`, `""`, `" "`, `null`, `[null]`, `{"":""}`, `"null"`, `1e300`, `[[[[1]]]]`} {
			uid := fmt.Sprintf("u%d", i)
			m := h.mutation(t, tidemark.Create, "note", uid, `{"doc":`+v+`}`, 10)
			if o := h.write(t, m)[0]; o.Err != nil || differ(s, o.Row, h.full(t, "note", uid, m.Data)) != "" {
				t.Errorf("%s: %v %s", v, o.Err, o.Row)
			}
		}
		if n := len(h.find(t, "note", tidemark.Where{"doc": nil})); n != 1 {
			t.Errorf("%d rows have no doc, want 1", n)
		}
	}},
	{"large texts", "a text of a megabyte comes back", func(t *testing.T, h Harness) {
		long := strings.Repeat(`ü'"\\`, 1<<18)
		m := h.mutation(t, tidemark.Create, "note", "u", `{"text":`+string(tidemark.AppendString(nil, long))+`}`, 10)
		if o := h.write(t, m)[0]; o.Err != nil || differ(h.schema(t, "note"), o.Row, h.full(t, "note", "u", m.Data)) != "" {
			t.Errorf("%v, %d bytes", o.Err, len(o.Row))
		}
	}},
	{"hostile texts", "what looks like SQL is text, in values, uids and clauses, and harms nothing", hostile},
}

var extraValues = map[string][]string{
	"text": {`"\u0001\t\n\r"`, `"\u2028"`, `"$1 ?1 ? :x @x"`, `"\ufffd"`, `"\\u0000"`, `"0000-01-01"`},
	"n":    {`-9007199254740993`},
	"x":    {`-0`, `1.7976931348623157e308`, `2.2250738585072014e-308`, `123456789012345680000`, `9223372036854775808`, `1e-7`, `100`, `3.141592653589793`},
	"dec":  {`"123456789.12345"`},
	"raw":  {`"` + strings.Repeat("AAEC/f7/", 100) + `"`},
}

// payloads are texts that do damage where a driver puts values together with SQL.
func payloads() []string {
	base := []string{
		`'`, `''`, `"`, `\`, `\'`, `\\'`, `;`, `--`, `/*`, `*/`, `'; DROP TABLE note; --`, `' OR '1'='1`, `\' OR 1=1 --`, `" OR ""="`, `$$`, `$1`, `?`, `?1`, `?0`, `:a`, `@a`, `?TableAlias`,
		`') ; DELETE FROM metadata; --`, `'||(SELECT 1)||'`, `%`, `_`, `%s%n`, `{}`, `[]`, `{"a":1}`, `null`, `NULL`, `DEFAULT`, `true`, `0`, `1e1`, `*`, `note.uid`, `E'\x41'`, `x'00'`, `\x41`,
		"\u2019; DROP TABLE note; --", "\u02bc OR 1=1", "a\u0300", "\U0001F600", "\u202e", "\ufeff", "Ⅳ", "ﬀ", "ß", "İ", `CAST(1 AS text)`, `]"}`, `"}]`, `","c0":"x`,
	}
	var all []string
	for _, p := range base {
		for _, wrap := range []string{"%s", "%s%[1]s", "a%sb", " %s ", "'%s'", "\"%s\""} {
			all = append(all, fmt.Sprintf(wrap, p))
		}
	}
	return all
}

func hostile(t *testing.T, h Harness) {
	s := h.schema(t, "note")
	var ms []tidemark.Mutation
	var want []tidemark.Row
	seen := map[string]bool{}
	for _, p := range payloads() {
		if len(p) > 128 || seen[p] {
			continue
		}
		seen[p] = true
		text := string(tidemark.AppendString(nil, p))
		m := h.mutation(t, tidemark.Create, "note", p, `{"text":`+text+`,"doc":{`+text+`:`+text+`}}`, 10)
		ms, want = append(ms, m), append(want, h.full(t, "note", p, m.Data))
	}
	for i, o := range h.write(t, ms...) {
		if o.Err != nil || differ(s, o.Row, want[i]) != "" {
			t.Errorf("%q: %v %s", ms[i].UID, o.Err, differ(s, o.Row, want[i]))
		}
	}
	for i, m := range ms {
		if i%7 == 0 { // each shape of it
			if rows := h.find(t, "note", tidemark.Where{"uid": m.UID, "text": tidemark.Range{GTE: m.UID, LTE: m.UID}}); len(rows) != 1 {
				t.Errorf("%q: %d rows", m.UID, len(rows))
			}
		}
		if _, err := (tidemark.Where{m.UID: "x"}).Compile(s); err == nil {
			t.Errorf("%q passes for a field", m.UID)
		}
	}
	if n := len(h.find(t, "note", tidemark.Where{})); n != len(ms) {
		t.Errorf("%d rows, want %d", n, len(ms))
	}
	uids := make([]string, len(ms))
	for i := range ms {
		ms[i].Op, ms[i].Data, ms[i].Stamp, uids[i] = tidemark.Delete, nil, 20, ms[i].UID
	}
	h.write(t, ms...)
	p := h.compile(t, "note", tidemark.Where{})
	if snap, err := h.Driver.Snapshot(context.Background(), p, uids); err != nil || len(snap.Others) != len(ms) || len(snap.Selected) != 0 {
		t.Errorf("after the deletes: %v, %+v", err, snap)
	}
}
