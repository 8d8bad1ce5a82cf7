package tidemark

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Stamp is the time of a write: microseconds since 1970-01-01T00:00:00Z. Zero
// means none. The instant 1970-01-01T00:00:00Z itself, which some clients send
// for a missing date, is read as one microsecond later.
type Stamp int64

// StampOf returns t as a stamp, cut to microseconds (PostgreSQL's precision).
// The zero time.Time gives zero.
func StampOf(t time.Time) Stamp {
	if t.IsZero() {
		return 0
	}
	return stampOfInstant(t.UnixMicro())
}

func stampOfInstant(us int64) Stamp {
	if us == 0 {
		return 1
	}
	return Stamp(us)
}

// Time returns s in UTC, the zero time for zero.
func (s Stamp) Time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(s)).UTC()
}

// String returns the wire form, "" for zero.
func (s Stamp) String() string {
	if s == 0 {
		return ""
	}
	return string(AppendInstant(nil, int64(s)))
}

// MarshalJSON gives the wire form as a JSON string, null for zero.
func (s Stamp) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// AppendJSON appends what MarshalJSON returns to b.
func (s Stamp) AppendJSON(b []byte) []byte {
	if s == 0 {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = AppendInstant(b, int64(s))
	return append(b, '"')
}

// UnmarshalJSON reads what a client may send for a stamp: a date as
// [ParseInstant] reads it, a number of milliseconds since 1970, or null for
// none. Anything else is a [CodeInvalidStamp] error.
func (s *Stamp) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if string(b) == "null" {
		*s = 0
		return nil
	}
	us, err := instantOfJSON(b)
	if err != nil {
		return NewError(CodeInvalidStamp, "%s is not a date", quoteShort(b))
	}
	*s = stampOfInstant(us)
	return nil
}

func instantOfJSON(b []byte) (int64, error) {
	if len(b) == 0 {
		return 0, errBadInstant
	}
	if n := len(b) - 1; n > 0 && b[0] == '"' && b[n] == '"' && bytes.IndexByte(b, '\\') < 0 {
		return ParseInstant(string(b[1:n])) // the usual form; a sync may bring 100,000
	}
	if b[0] == '"' {
		var t string
		if err := json.Unmarshal(b, &t); err != nil {
			return 0, err
		}
		return ParseInstant(t)
	}
	ms, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.Abs(ms) > 8.64e15 { // the range of a JavaScript Date
		return 0, errBadInstant
	}
	us := math.Floor(ms) * 1000
	if us < minInstant || us > maxInstant {
		return 0, errBadInstant
	}
	return int64(us), nil
}

// ParseStamp reads a stamp from text as [ParseInstant] does.
func ParseStamp(s string) (Stamp, error) {
	us, err := ParseInstant(s)
	if err != nil {
		return 0, NewError(CodeInvalidStamp, "%s is not a date", quoteShort([]byte(s)))
	}
	return stampOfInstant(us), nil
}

// The instants that have a canonical form: years 0000 to 9999.
const (
	minInstant = -62167219200000000
	maxInstant = 253402300799999999
)

var errBadInstant = NewError(CodeInvalidData, "not a date")

// AppendInstant appends the canonical form of an instant, given in microseconds
// since 1970: ISO 8601 in UTC with three decimals, or six when the microseconds
// do not end in 000, as in 2026-01-01T00:00:00.123Z. Without its last letter the
// form sorts as text in the order of time.
func AppendInstant(b []byte, us int64) []byte {
	t := time.UnixMicro(us).UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	}
	hour, minute, second := t.Clock()
	b = appendDigits(b, year/100, 0)
	b = appendDigits(b, year%100, '-')
	b = appendDigits(b, int(month), '-')
	b = appendDigits(b, day, 'T')
	b = appendDigits(b, hour, ':')
	b = appendDigits(b, minute, ':')
	b = appendDigits(b, second, '.')
	micro := t.Nanosecond() / 1000
	b = append(b, '0'+byte(micro/100_000))
	b = appendDigits(b, micro/1000%100, 0)
	if rest := micro % 1000; rest != 0 {
		b = append(b, '0'+byte(rest/100))
		b = appendDigits(b, rest%100, 0)
	}
	return append(b, 'Z')
}

// appendDigits appends a number of two digits and, unless it is 0, what follows it.
func appendDigits(b []byte, n int, then byte) []byte {
	b = append(b, '0'+byte(n/10), '0'+byte(n%10))
	if then != 0 {
		b = append(b, then)
	}
	return b
}

// InstantOf returns t in microseconds since 1970, further decimals cut. Years
// outside 0000 to 9999 are refused as [CodeInvalidData].
func InstantOf(t time.Time) (int64, error) {
	if s := t.Unix(); s < minInstant/1_000_000 || s > maxInstant/1_000_000 { // in seconds: microseconds wrap around
		return 0, errBadInstant
	}
	return t.UnixMicro(), nil
}

var instantLayouts = []string{
	"2006-01-02T15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999Z07",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999",
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04",
	"2006-01-02",
	"2006-01",
	"2006",
	time.RFC1123,
	time.RFC1123Z,
	"Mon Jan 02 2006 15:04:05 GMT-0700", // JavaScript's Date.prototype.toString, without the zone's name
}

// ParseInstant reads a date as a JavaScript Date does: ISO 8601 with any offset
// or only its leading parts, RFC 1123, or Date.prototype.toString's form. Text
// without an offset is UTC. The result is in microseconds since 1970; further
// decimals are cut. Years outside 0000 to 9999 are refused.
func ParseInstant(s string) (int64, error) {
	if i := strings.IndexByte(s, '('); i > 0 {
		s = strings.TrimSpace(s[:i])
	}
	for _, layout := range instantLayouts {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		us := t.UnixMicro()
		if us < minInstant || us > maxInstant {
			return 0, errBadInstant
		}
		return us, nil
	}
	return 0, errBadInstant
}

// quoteShort quotes what a peer sent for an error message, cut to 40 bytes.
func quoteShort(b []byte) string {
	if len(b) > 40 {
		b = append(append([]byte{}, b[:40]...), "..."...)
	}
	return strconv.QuoteToASCII(string(b))
}
