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
// for a missing date, and all before it are read as one microsecond later: there are no negative stamps.
type Stamp int64

// StampOf returns t as a stamp, cut to microseconds (PostgreSQL's precision).
// The zero time.Time gives zero.
func StampOf(t time.Time) Stamp {
	if t.IsZero() {
		return 0
	}
	return stampOfInstant(t.UnixMicro())
}

func stampOfInstant(us int64) Stamp { return Stamp(max(us, 1)) }

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
		if us, ok := parseCanonical(b[1:n]); ok {
			return us, nil
		}
		return ParseInstant(string(b[1:n]))
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
	if us, ok := parseCanonical(s); ok {
		return us, nil
	}
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

// parseCanonical reads the form that AppendInstant writes: a sync may bring
// 100,000 of them, and a row has two.
func parseCanonical[T string | []byte](s T) (us int64, ok bool) {
	n := len(s)
	if n != len("2006-01-02T15:04:05.000Z") && n != len("2006-01-02T15:04:05.000000Z") || s[n-1] != 'Z' ||
		s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' || s[19] != '.' {
		return 0, false
	}
	ok = true
	number := func(from, to int) (v int) {
		for i := from; i < to; i++ {
			ok = ok && s[i] >= '0' && s[i] <= '9'
			v = v*10 + int(s[i]-'0')
		}
		return v
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	fraction := number(20, n-1)
	if n == len("2006-01-02T15:04:05.000Z") {
		fraction *= 1000
	}
	if !ok || month < 1 || month > 12 || day < 1 || day > 28 && day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	days := daysBefore(year, month) + int64(day) - 1
	return ((days*24+int64(hour))*60+int64(minute))*60_000_000 + int64(second)*1_000_000 + int64(fraction), true
}

// daysBefore returns the days from 1970 to the first of a month (Hinnant, "chrono-Compatible
// Low-Level Date Algorithms", days_from_civil). The year is 0 or later.
func daysBefore(year, month int) int64 {
	if month <= 2 { // the year begins in March, so that a leap day is its last
		year, month = year-1, month+12
	}
	era := (year + 400) / 400 // counted from the year -400
	of := year + 400 - era*400
	return int64(era-1)*146097 + int64(of*365+of/4-of/100+(153*(month-3)+2)/5) - 719468
}

func daysIn(year, month int) int {
	return int(daysBefore(year+month/12, month%12+1) - daysBefore(year, month))
}

// quoteShort quotes what a peer sent for an error message, cut to 40 bytes.
func quoteShort(b []byte) string {
	if len(b) > 40 {
		b = append(append([]byte{}, b[:40]...), "..."...)
	}
	return strconv.QuoteToASCII(string(b))
}
