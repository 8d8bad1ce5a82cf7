package tidemark_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"pgregory.net/rapid"
)

func TestValuesHaveOneCanonicalForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind tidemark.Kind
		raw  string
		want string // "" means refused
	}{
		{tidemark.Text, `"a\u0041\/\ud83d\ude00"`, `"aA/😀"`},
		{tidemark.Text, `"\"\\\n\u001f"`, `"\"\\\n\u001f"`},
		{tidemark.Text, `""`, `""`},
		{tidemark.Text, `null`, `null`},
		{tidemark.Text, `"a\u0000"`, ``},
		{tidemark.Text, `"\ud83d"`, ``},
		{tidemark.Text, `"\ude00\ud83d"`, ``},
		{tidemark.Text, "\"\xff\"", ``},
		{tidemark.Text, `7`, ``},
		{tidemark.Text, ``, ``},
		{tidemark.Integer, `9223372036854775807`, `9223372036854775807`},
		{tidemark.Integer, `-9223372036854775808`, `-9223372036854775808`},
		{tidemark.Integer, `9223372036854775808`, ``},
		{tidemark.Integer, `9007199254740993`, `9007199254740993`},
		{tidemark.Integer, `1.0`, `1`},
		{tidemark.Integer, `1e3`, `1000`},
		{tidemark.Integer, `-0`, `0`},
		{tidemark.Integer, `1.5`, ``},
		{tidemark.Integer, `1e30`, ``},
		{tidemark.Integer, `"1"`, ``},
		{tidemark.Integer, `true`, ``},
		{tidemark.Integer, `0x10`, ``},
		{tidemark.Double, `1`, `1`},
		{tidemark.Double, `-0`, `0`},
		{tidemark.Double, `-0.0`, `0`},
		{tidemark.Double, `0.1`, `0.1`},
		{tidemark.Double, `1e21`, `1e+21`},
		{tidemark.Double, `1e-7`, `1e-7`},
		{tidemark.Double, `123456789012345680000`, `123456789012345680000`},
		{tidemark.Double, `5e-324`, `5e-324`},
		{tidemark.Double, `1e999`, ``},
		{tidemark.Double, `NaN`, ``},
		{tidemark.Double, `"1"`, ``},
		{tidemark.Bool, `true`, `true`},
		{tidemark.Bool, `1`, ``},
		{tidemark.Bool, `"true"`, ``},
		{tidemark.Timestamp, `"2026-01-01T00:00:00Z"`, `"2026-01-01T00:00:00.000Z"`},
		{tidemark.Timestamp, `"2026-01-01T01:00:00.123456+01:00"`, `"2026-01-01T00:00:00.123456Z"`},
		{tidemark.Timestamp, `"2026-01-01T00:00:00.1234567Z"`, `"2026-01-01T00:00:00.123456Z"`},
		{tidemark.Timestamp, `"2026-01-03"`, `"2026-01-03T00:00:00.000Z"`},
		{tidemark.Timestamp, `"Sat, 03 Jan 2026 10:00:00 GMT"`, `"2026-01-03T10:00:00.000Z"`},
		{tidemark.Timestamp, `"Sat Jan 03 2026 10:00:00 GMT+0100 (Central European Standard Time)"`, `"2026-01-03T09:00:00.000Z"`},
		{tidemark.Timestamp, `"9999-12-31T23:59:59.999999Z"`, `"9999-12-31T23:59:59.999999Z"`},
		{tidemark.Timestamp, `"9999-12-31T23:59:59.999999-01:00"`, ``},
		{tidemark.Timestamp, `"soon"`, ``},
		{tidemark.Timestamp, `5`, ``},
		{tidemark.Bytes, `"AAH/"`, `"AAH/"`},
		{tidemark.Bytes, `"AAH"`, ``},
		{tidemark.Bytes, `"AA\nH/"`, ``},
		{tidemark.JSON, `{"a":[1,{"b":null}]}`, `{"a":[1,{"b":null}]}`},
		{tidemark.JSON, `{"a":"\u0000"}`, ``},
		{tidemark.JSON, `{"a":1,"a":2}`, ``},
		{tidemark.JSON, `{`, ``},
		{tidemark.Numeric, `"001.500"`, `"1.5"`},
		{tidemark.Numeric, `"-0.00"`, `"0"`},
		{tidemark.Numeric, `12.50`, `"12.5"`},
		{tidemark.Numeric, `"1e-3"`, `"0.001"`},
		{tidemark.Numeric, `"12e3"`, `"12000"`},
		{tidemark.Numeric, `"NaN"`, ``},
		{tidemark.Numeric, `"."`, ``},
		{tidemark.UUID, `"0190A000-0000-7000-8000-000000000001"`, `"0190a000-0000-7000-8000-000000000001"`},
		{tidemark.UUID, `"{0190a000-0000-7000-8000-000000000001}"`, ``},
		{tidemark.Date, `"2026-02-28"`, `"2026-02-28"`},
		{tidemark.Date, `"2026-02-29"`, ``},
		{tidemark.TimeOfDay, `"10:11:12.500"`, `"10:11:12.5"`},
		{tidemark.TimeOfDay, `"1:02:03"`, `"01:02:03"`},
		{tidemark.TimeOfDay, `"10:11:12,5"`, `"10:11:12.5"`},
		{tidemark.TimeOfDay, `"10:11:12.0"`, `"10:11:12"`},
		{tidemark.TimeOfDay, `"10:11:12.1234567"`, `"10:11:12.123456"`},
		{tidemark.TimeOfDay, `"25:00:00"`, ``},
		{tidemark.Enum, `"open"`, `"open"`},
	} {
		got, err := c.kind.Canonical([]byte(c.raw))
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s %s: got %s, want a refusal", c.kind, c.raw, got)
		case c.want == "" && tidemark.CodeOf(err) == tidemark.CodeUnknown:
			t.Errorf("%s %s: %v has no code", c.kind, c.raw, err)
		case c.want != "" && (err != nil || string(got) != c.want):
			t.Errorf("%s %s: got %s, %v; want %s", c.kind, c.raw, got, err, c.want)
		}
	}
}

func TestDoublesReadBackAsTheyWere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }).Draw(t, "f")
		raw, _ := json.Marshal(f)
		canonical, err := tidemark.Double.Canonical(raw)
		if err != nil {
			t.Fatal(err)
		}
		var back float64
		if err := json.Unmarshal(canonical, &back); err != nil || back != f {
			t.Fatalf("%v became %s, %v", f, canonical, err)
		}
	})
}

func TestInstantsSortAsTheirTextDoes(t *testing.T) {
	t.Parallel()
	text := func(us int64) string { return strings.TrimSuffix(string(tidemark.AppendInstant(nil, us)), "Z") }
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(-62167219200000000, 253402300799999999).Draw(t, "a")
		b := a + rapid.Int64Range(-3000, 3000).Draw(t, "d")
		if b < -62167219200000000 || b > 253402300799999999 {
			return
		}
		if (a < b) != (text(a) < text(b)) || (a == b) != (text(a) == text(b)) {
			t.Fatalf("%d %s, %d %s", a, text(a), b, text(b))
		}
		if back, err := tidemark.ParseInstant(string(tidemark.AppendInstant(nil, a))); err != nil || back != a {
			t.Fatalf("%d reads back as %d, %v", a, back, err)
		}
	})
}

func TestStamps(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`"2026-01-01T00:00:00.123Z"`: "2026-01-01T00:00:00.123Z",
		`1767225600123`:              "2026-01-01T00:00:00.123Z",
		`1767225600123.9`:            "2026-01-01T00:00:00.123Z",
		`0`:                          "1970-01-01T00:00:00.000001Z",
		`-1`:                         "1970-01-01T00:00:00.000001Z",
		`"1969-12-31T23:59:59Z"`:     "1970-01-01T00:00:00.000001Z",
		`"0000-01-01T00:00:00Z"`:     "1970-01-01T00:00:00.000001Z",
		`null`:                       "",
	} {
		var s tidemark.Stamp
		if err := json.Unmarshal([]byte(raw), &s); err != nil || s.String() != want {
			t.Errorf("%s: got %q, %v; want %q", raw, s, err, want)
		}
	}
	for _, raw := range []string{`"garbage"`, `true`, `{}`, `[]`, `9e15`, `-9e15`, `"0000"`, `""`} {
		var s tidemark.Stamp
		if err := s.UnmarshalJSON([]byte(raw)); raw != `"0000"` && tidemark.CodeOf(err) != tidemark.CodeInvalidStamp {
			t.Errorf("%s: got %v, %v; want invalid-stamp", raw, s, err)
		}
	}
	if s := tidemark.StampOf(time.Date(2026, 1, 1, 0, 0, 0, 999, time.FixedZone("", 3600))); s.String() != "2025-12-31T23:00:00.000Z" {
		t.Errorf("got %s", s)
	}
	if tidemark.StampOf(time.Time{}) != 0 || !tidemark.Stamp(0).Time().IsZero() {
		t.Error("zero is not zero")
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := tidemark.NewClock(func() time.Time { return now })
	a := c.Now()
	now = now.Add(-time.Hour)
	b := c.Now()
	if b <= a {
		t.Errorf("%d after %d", b, a)
	}
	c.Observe(a+1000, 0)
	if got := c.Now(); got <= a+1000 {
		t.Errorf("%d is not after what was observed", got)
	}
	far := tidemark.StampOf(now.Add(24 * time.Hour))
	c.Observe(far, time.Minute)
	if got := c.Now(); got >= far {
		t.Error("a stamp a day ahead was adopted")
	}
	now = now.Add(3 * time.Hour)
	x, y := c.Clamp(far, time.Minute), c.Clamp(far, time.Minute)
	if limit := tidemark.StampOf(now.Add(time.Minute)); x > limit || y <= x {
		t.Errorf("clamped to %d, %d; limit %d", x, y, limit)
	}
	if near := tidemark.StampOf(now.Add(time.Second)); c.Clamp(near, time.Minute) != near {
		t.Error("a stamp within the drift was clamped")
	}
}

func TestInstantsOutsideTheCalendarAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, "0001-01-01T00:00:00.000Z"},
		{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), "0000-01-01T00:00:00.000Z"},
		{time.Date(-1, 12, 31, 23, 59, 59, 999999999, time.UTC), ""},
		{time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), "9999-12-31T23:59:59.999999Z"},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.FixedZone("", 0)), "1969-12-31T23:59:59.999999Z"},
		{time.Unix(18446744073710, 0), ""}, // its microseconds, modulo 2^64, are a moment of 1970
		{time.Unix(math.MinInt64, 0), ""},
	} {
		us, err := tidemark.InstantOf(c.at)
		got := ""
		if err == nil {
			got = string(tidemark.AppendInstant(nil, us))
		}
		if got != c.want || err != nil && tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%v: got %q, %v; want %q", c.at.Unix(), got, err, c.want)
		}
	}
}

func TestInstantsAreWrittenAsTimeDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(-62167219200000000, 253402300799999999).Draw(t, "us")
		if rapid.Bool().Draw(t, "whole") {
			us -= us % 1000
		}
		layout := "2006-01-02T15:04:05.000000Z"
		if us%1000 == 0 {
			layout = "2006-01-02T15:04:05.000Z"
		}
		if got, want := string(tidemark.AppendInstant(nil, us)), time.UnixMicro(us).UTC().Format(layout); got != want {
			t.Errorf("%d is %s, want %s", us, got, want)
		}
	})
}

// What looks canonical is read as time.Parse reads it, and nothing else is.
func TestCanonicalInstantsAreReadAsTimeDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03d", rapid.IntRange(0, 9999).Draw(t, "year"), rapid.IntRange(0, 13).Draw(t, "month"),
			rapid.IntRange(0, 32).Draw(t, "day"), rapid.IntRange(0, 24).Draw(t, "hour"), rapid.IntRange(0, 60).Draw(t, "minute"),
			rapid.IntRange(0, 60).Draw(t, "second"), rapid.IntRange(0, 999).Draw(t, "milliseconds"))
		if rapid.Bool().Draw(t, "microseconds") {
			text += fmt.Sprintf("%03d", rapid.IntRange(0, 999).Draw(t, "rest"))
		}
		text += "Z"
		if at := rapid.IntRange(0, 10*len(text)).Draw(t, "at"); at < len(text) { // mostly untouched
			text = text[:at] + rapid.SampledFrom([]string{"-", ":", "/", "T", "x", "٣", "0"}).Draw(t, "put") + text[at+1:]
		}
		want, err := time.Parse(time.RFC3339Nano, text)
		got, gotErr := tidemark.ParseInstant(text)
		if err == nil && (gotErr != nil || got != want.UnixMicro()) {
			t.Errorf("%s is %d, %v; want %d", text, got, gotErr, want.UnixMicro())
		}
		if err != nil && gotErr == nil && strings.HasSuffix(text, "Z") { // without it other layouts apply
			t.Errorf("%s is read as %d; it is %v", text, got, err)
		}
		var stamp tidemark.Stamp
		if e := stamp.UnmarshalJSON([]byte(`"` + text + `"`)); (e == nil) != (gotErr == nil) || e == nil && int64(stamp) != max(got, 1) {
			t.Errorf("%s is the stamp %d, %v; and the instant %d, %v", text, stamp, e, got, gotErr)
		}
	})
}

// What is canonical already is recognised without making it again.
func TestCanonicalFormsAreRecognised(t *testing.T) {
	t.Parallel()
	strict := base64.StdEncoding.Strict()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[A-Da-d+/]{0,6}={0,3}[A-D]{0,1}`).Draw(t, "text")
		if n := rapid.SampledFrom([]int{0, 0, 0, 127, 128, 256}).Draw(t, "times four before"); n > 0 {
			text = strings.Repeat("QUJD", n) + text
		}
		_, err := strict.DecodeString(text)
		got, gotErr := tidemark.Bytes.Canonical([]byte(`"` + text + `"`))
		if (err == nil) != (gotErr == nil) || err == nil && string(got) != `"`+text+`"` {
			t.Fatalf("%s is %s, %v; base64 says %v", text, got, gotErr, err)
		}
		number := rapid.StringMatching(`-?[01]{0,3}(\.[01]{0,3})?`).Draw(t, "number")
		want, ok := new(big.Rat).SetString(number)
		canonical, err := tidemark.Numeric.Canonical([]byte(`"` + number + `"`))
		if ok != (err == nil) {
			t.Fatalf("%q is %s, %v; want %v", number, canonical, err, want)
		}
		if !ok {
			return
		}
		again := strings.Trim(string(canonical), `"`)
		back, _ := new(big.Rat).SetString(again)
		if plain := regexp.MustCompile(`^(0|-?0\.\d*[1-9]|-?[1-9]\d*(\.\d*[1-9])?)$`); back.Cmp(want) != 0 || !plain.MatchString(again) {
			t.Fatalf("%q is %s", number, canonical)
		}
	})
}

func TestPeekTakesNoMemory(t *testing.T) {
	for kind, raw := range map[tidemark.Kind]string{
		tidemark.Text: `"aé😀 of some length, more than thirty-two bytes"`, tidemark.Integer: `-9223372036854775808`, tidemark.Double: `1.7976931348623157e+308`,
		tidemark.Bool: `true`, tidemark.Timestamp: `"2026-01-01T00:00:00.123456Z"`, tidemark.Bytes: `"` + strings.Repeat("QUJD", 300) + `"`,
		tidemark.JSON: `{"a":[1,{"b":null}]}`, tidemark.Numeric: `"-12345678901234567890123456789012345.5"`,
		tidemark.UUID: `"0190a000-0000-7000-8000-000000000001"`, tidemark.Date: `"2026-02-28"`, tidemark.TimeOfDay: `"10:11:12.5"`, tidemark.Enum: `"open"`,
	} {
		b := []byte(raw)
		want, err := tidemark.ValueOf(kind, b)
		if err != nil {
			t.Fatal(err)
		}
		var got tidemark.Value
		if n := testing.AllocsPerRun(100, func() { got, err = kind.Peek(b) }); n != 0 || err != nil || got != want {
			t.Errorf("%s %s: %v, %v, with %v allocations; want %v", kind, raw, got, err, n, want)
		}
		clear(b)
		if string(want.AppendJSON(nil)) != raw {
			t.Errorf("%s %s: ValueOf became %s with what it was made of", kind, raw, want.AppendJSON(nil))
		}
	}
}
