package tidemark

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

// Value is one value of a field, decoded for comparison. The zero Value is null.
type Value struct {
	kind Kind // 0 for null
	i    int64
	f    float64
	s    string
}

// IsNull reports whether v is null.
func (v Value) IsNull() bool { return v.kind == 0 }

// Int returns the number of an Integer, the microseconds of a Timestamp, and 0 or 1 of a Bool.
func (v Value) Int() int64 { return v.i }

// Float returns the number of a Double.
func (v Value) Float() float64 { return v.f }

// Text returns the text of every other kind: for Bytes its base64 form, for JSON its JSON text.
func (v Value) Text() string { return v.s }

// Kind returns the kind of v, 0 for null.
func (v Value) Kind() Kind { return v.kind }

// Compare orders two values of one kind that are not null: it is negative when v is
// before w, 0 when they are equal. Of a kind without an order only the 0 means anything.
func (v Value) Compare(w Value) int {
	switch v.kind {
	case Integer, Timestamp, Bool:
		return cmp.Compare(v.i, w.i)
	case Double:
		return cmp.Compare(v.f, w.f)
	}
	return strings.Compare(v.s, w.s)
}

// ValueOf decodes the JSON text of a value of kind k. A value of another type, or
// one that cannot be stored everywhere, is a [CodeInvalidData] error.
func ValueOf(k Kind, raw []byte) (Value, error) {
	v, err := k.Peek(raw)
	v.s = strings.Clone(v.s)
	return v, err
}

// Peek is [ValueOf] for what is looked at once: where the text of the value stands
// in raw as it is, it is raw's own, so that it takes no memory and is good only until raw changes.
func (k Kind) Peek(raw []byte) (Value, error) {
	raw = bytes.TrimSpace(raw)
	if string(raw) == "null" {
		return Value{}, nil
	}
	v := Value{kind: k}
	var err error
	switch k {
	case Integer:
		v.i, err = parseInteger(raw)
	case Double:
		v.f, err = parseDouble(raw)
	case Bool:
		switch string(raw) {
		case "true":
			v.i = 1
		case "false":
		default:
			err = notA(k)
		}
	case JSON:
		if err = CheckJSON(raw, JSONLimits{}); err == nil {
			err = checkEscapes(raw)
		}
		v.s = alias(raw)
	case Timestamp:
		if n := len(raw) - 1; n > 0 && raw[0] == '"' && raw[n] == '"' {
			if us, ok := parseCanonical(raw[1:n]); ok {
				v.i = us
				break
			}
		}
		var s string
		if s, err = stringOf(k, raw); err == nil {
			v.i, err = ParseInstant(s)
		}
	case Numeric:
		s := alias(raw)
		if len(raw) > 0 && raw[0] == '"' {
			s, err = stringOf(k, raw)
		}
		if err == nil {
			v.s, err = canonicalNumeric(s)
		}
	default:
		if v.s, err = stringOf(k, raw); err == nil {
			v.s, err = canonicalText(k, v.s)
		}
	}
	if err != nil {
		return Value{}, err
	}
	return v, nil
}

// AppendJSON appends the canonical JSON form of v to b.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case 0:
		return append(b, "null"...)
	case Integer:
		return strconv.AppendInt(b, v.i, 10)
	case Double:
		return AppendDouble(b, v.f)
	case Bool:
		return strconv.AppendBool(b, v.i == 1)
	case JSON:
		return append(b, v.s...)
	case Timestamp:
		b = append(b, '"')
		b = AppendInstant(b, v.i)
		return append(b, '"')
	}
	return AppendString(b, v.s)
}

// Canonical returns the one JSON form of the value whose JSON text is raw: what
// every part of Tidemark stores and sends. It may be raw itself. See [ValueOf] for the errors.
func (k Kind) Canonical(raw []byte) ([]byte, error) {
	if n := len(raw) - 1; k == Text && n > 0 && raw[0] == '"' && skipPlain(raw, 1) == n && raw[n] == '"' && utf8.Valid(raw) {
		return raw, nil
	}
	v, err := k.Peek(raw)
	if err != nil {
		return nil, err
	}
	return v.AppendJSON(make([]byte, 0, len(raw)+2)), nil
}

func notA(k Kind) error {
	article := "a"
	if k == Integer || k == Enum {
		article = "an"
	}
	return NewError(CodeInvalidData, "not %s %s", article, k)
}

func messageOf(err error) string {
	if e, ok := err.(*Error); ok {
		return e.Message
	}
	return err.Error()
}

func stringOf(k Kind, raw []byte) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", notA(k)
	}
	return peekString(raw)
}

func validText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// parseInteger reads a JSON number that is an integer of 64 bits; 1.0 and 1e3 are.
func parseInteger(raw []byte) (int64, error) {
	if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return i, nil
	}
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, notA(Integer)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || !bytes.ContainsAny(raw, ".eE") || math.Abs(f) >= 1<<63 {
		return 0, notA(Integer)
	}
	return int64(f), nil
}

func parseDouble(raw []byte) (float64, error) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, notA(Double)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, NewError(CodeInvalidData, "not a number that fits 64 bits")
	}
	if f == 0 {
		return 0, nil // not -0
	}
	return f, nil
}

// AppendDouble appends the canonical form of a finite number to b, as JavaScript
// writes it: the shortest digits that read back as f, in plain notation between 1e-6 and 1e21.
func AppendDouble(b []byte, f float64) []byte {
	abs := math.Abs(f)
	if abs == 0 || abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, f, 'e', -1, 64)
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' { // e-09 -> e-9
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

func canonicalText(k Kind, s string) (string, error) {
	switch k {
	case Bytes:
		if !isBase64(s) {
			return "", NewError(CodeInvalidData, "not base64")
		}
		return s, nil // which has one form
	case UUID:
		s = strings.ToLower(s)
		if !isUUID(s) {
			return "", notA(k)
		}
	case Date:
		if _, err := time.Parse("2006-01-02", s); err != nil {
			return "", notA(k)
		}
	case TimeOfDay:
		t, err := time.Parse("15:04:05.999999999", s)
		if err != nil {
			return "", notA(k)
		}
		if n := len(s); s[2] == ':' && (n == 8 || s[8] == '.' && n <= len("15:04:05.999999") && s[n-1] != '0') {
			return s, nil
		}
		return t.Truncate(time.Microsecond).Format("15:04:05.999999"), nil
	}
	if !validText(s) {
		return "", NewError(CodeInvalidData, "text contains the character NUL or is not valid UTF-8")
	}
	return s, nil
}

var strictBase64 = base64.StdEncoding.Strict()

// isBase64 reports whether s is what base64.StdEncoding writes of some bytes.
func isBase64(s string) bool {
	if end := strings.IndexByte(s, '='); end >= 0 && end < len(s)-2 || strings.ContainsAny(s, "\r\n") {
		return false
	}
	var decoded [384]byte
	for piece := ""; s != ""; {
		n := min(len(s), 512)
		piece, s = s[:n], s[n:]
		if _, err := strictBase64.Decode(decoded[:], []byte(piece)); err != nil {
			return false
		}
	}
	return true
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f'):
			return false
		}
	}
	return true
}

// canonicalNumeric writes a decimal without exponent, sign of zero or superfluous zeros.
func canonicalNumeric(s string) (string, error) {
	if isNumeric(s) {
		return s, nil
	}
	bad := NewError(CodeInvalidData, "not a decimal number")
	mantissa, exponent := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.Atoi(s[i+1:])
		if err != nil || e < -1000 || e > 1000 {
			return "", bad
		}
		mantissa, exponent = s[:i], e
	}
	neg := strings.HasPrefix(mantissa, "-")
	mantissa = strings.TrimPrefix(mantissa, "-")
	whole, frac, _ := strings.Cut(mantissa, ".")
	digits := whole + frac
	if digits == "" || len(digits) > 100_000 || strings.Trim(digits, "0123456789") != "" {
		return "", bad
	}
	point := len(whole) + exponent
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	}
	if point > len(digits) {
		digits += strings.Repeat("0", point-len(digits))
	}
	whole = strings.TrimLeft(digits[:point], "0")
	frac = strings.TrimRight(digits[point:], "0")
	if whole == "" {
		whole = "0"
	}
	if frac != "" {
		whole += "." + frac
	}
	if neg && whole != "0" {
		whole = "-" + whole
	}
	return whole, nil
}

// isNumeric reports whether s is a decimal in its canonical form already.
func isNumeric(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	whole, frac, point := strings.Cut(digits, ".")
	switch {
	case whole == "" || len(digits) > 100_000, whole[0] == '0' && len(whole) > 1, s == "-0":
		return false
	case point && (frac == "" || frac[len(frac)-1] == '0'):
		return false
	}
	return strings.Trim(whole, "0123456789") == "" && strings.Trim(frac, "0123456789") == ""
}

// alias is string(b) without a copy.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
