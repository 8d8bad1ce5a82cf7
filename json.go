package tidemark

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// JSONLimits bounds what [CheckJSON] accepts. Zero in any field means no bound.
type JSONLimits struct {
	Depth  int // how deep arrays and objects may nest
	Values int // how many values there may be in all
}

// CheckJSON reports whether b is one JSON value that may be worked on without
// surprises: well formed, valid UTF-8, within lim, and without an object that
// has a member twice. It looks at every byte once and keeps nothing. The error
// is a [CodeInvalidRequest].
func CheckJSON(b []byte, lim JSONLimits) error {
	if !utf8.Valid(b) {
		return NewError(CodeInvalidRequest, "not valid UTF-8")
	}
	s := scanner{b: b, lim: lim, strict: true}
	s.space()
	if err := s.value(1); err != nil {
		return err
	}
	s.space()
	if s.i != len(b) {
		return s.fail("text after the value")
	}
	return nil
}

// EachMember calls fn for the members of the JSON object b, in their order, with
// the decoded key and the text of the value. It stops at the first error, its
// own (b is no object) or fn's. fn must not keep value if b is going to change.
func EachMember(b []byte, fn func(key string, value []byte) error) error {
	return EachField(b, func(key, value []byte) error { return fn(string(key), value) })
}

// EachField is [EachMember] for what is done to each row of many: the key is
// part of b where it can be, so that it takes no memory. fn must not keep it either.
func EachField(b []byte, fn func(key, value []byte) error) error {
	s := scanner{b: b}
	s.space()
	if s.peek() != '{' {
		return s.fail("not an object")
	}
	s.i++
	for first := true; ; first = false {
		s.space()
		if s.peek() == '}' && first {
			s.i++
			break
		}
		if !first {
			if s.peek() == '}' {
				s.i++
				break
			}
			if !s.take(',') {
				return s.fail("expected , or }")
			}
			s.space()
		}
		key, err := s.key()
		if err != nil {
			return err
		}
		s.space()
		if !s.take(':') {
			return s.fail("expected :")
		}
		s.space()
		start := s.i
		if err := s.value(1); err != nil {
			return err
		}
		if err := fn(key, b[start:s.i:s.i]); err != nil {
			return err
		}
	}
	return s.end()
}

// EachElement calls fn for the elements of the JSON array b, in their order. It
// stops at the first error, its own (b is no array) or fn's.
func EachElement(b []byte, fn func(i int, value []byte) error) error {
	s := scanner{b: b}
	s.space()
	if !s.take('[') {
		return s.fail("not an array")
	}
	for n := 0; ; n++ {
		s.space()
		if s.peek() == ']' {
			s.i++
			break
		}
		if n > 0 {
			if !s.take(',') {
				return s.fail("expected , or ]")
			}
			s.space()
		}
		start := s.i
		if err := s.value(1); err != nil {
			return err
		}
		if err := fn(n, b[start:s.i:s.i]); err != nil {
			return err
		}
	}
	return s.end()
}

// Elements returns the elements of the JSON array b.
func Elements(b []byte) ([]json.RawMessage, error) {
	var out []json.RawMessage
	err := EachElement(b, func(_ int, v []byte) error {
		out = append(out, v)
		return nil
	})
	return out, err
}

// AppendString appends s as a JSON string to b. Bytes of s that are not valid
// UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if i+8 <= len(s) {
			w := word(s[i : i+8])
			m := stops(w) | w&high
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) / 8
		}
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// The texts of strings are most of what is scanned. They are looked at eight bytes at a time.
const (
	ones = 0x0101010101010101
	high = 0x80 * ones
)

// word is binary.LittleEndian.Uint64 for a string.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// stops sets the high bit of the first byte of w that does not stand for itself
// in a string (a quote, a backslash, a control character); bits above it mean nothing.
func stops(w uint64) uint64 {
	quote, backslash := w^'"'*ones, w^'\\'*ones
	return ((w-0x20*ones)&^w | (quote-ones)&^quote | (backslash-ones)&^backslash) & high
}

// skipPlain returns the index of the first byte of b, from i, that does not stand
// for itself in a string; len(b) when all do.
func skipPlain(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if m := stops(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// DecodeString returns the text of the JSON string b. Text that cannot be stored
// everywhere is refused as [CodeInvalidData]: a lone surrogate, invalid UTF-8,
// the character NUL.
func DecodeString(b []byte) (string, error) {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return "", NewError(CodeInvalidData, "not a string")
	}
	in := b[1 : len(b)-1]
	if skipPlain(in, 0) == len(in) {
		if !utf8.Valid(in) {
			return "", NewError(CodeInvalidData, "text is not valid UTF-8")
		}
		return string(in), nil
	}
	if bytes.ContainsFunc(in, func(r rune) bool { return r < 0x20 }) {
		return "", NewError(CodeInvalidData, "control character in a string")
	}
	if err := checkEscapes(in); err != nil {
		return "", err
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return "", NewError(CodeInvalidData, "not a string")
	}
	return s, nil
}

// peekString is [DecodeString] without a copy, where the text stands in b as it is.
func peekString(b []byte) (string, error) {
	if n := len(b) - 1; n > 0 && b[0] == '"' && b[n] == '"' && skipPlain(b, 1) == n && utf8.Valid(b) {
		return alias(b[1:n]), nil
	}
	return DecodeString(b)
}

// isText reports whether the JSON text raw is the string s.
func isText(raw []byte, s string) bool {
	if n := len(raw); n >= 2 && raw[0] == '"' && raw[n-1] == '"' && skipPlain(raw, 1) == n-1 {
		return string(raw[1:n-1]) == s // without memory for the decoded text
	}
	got, err := DecodeString(raw)
	return err == nil && got == s
}

// checkEscapes refuses \u0000 and surrogates without a partner anywhere in the
// JSON text b, and invalid UTF-8.
func checkEscapes(b []byte) error {
	if !utf8.Valid(b) {
		return NewError(CodeInvalidData, "text is not valid UTF-8")
	}
	unit := func(i int) (rune, bool) {
		if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(b[i+2:i+6]), 16, 16)
		return rune(n), err == nil
	}
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		r, ok := unit(i)
		switch {
		case !ok:
			i++ // \n, \\ and the like
		case r == 0:
			return NewError(CodeInvalidData, "text contains the character NUL")
		case utf16.IsSurrogate(r):
			low, ok := unit(i + 6)
			if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
				return NewError(CodeInvalidData, "text contains half of a surrogate pair")
			}
			i += 11
		default:
			i += 5
		}
	}
	return nil
}

// scanner walks over JSON text. With strict it also refuses duplicate members
// and counts; without, it finds where values end.
type scanner struct {
	b      []byte
	i      int
	lim    JSONLimits
	strict bool
	values int
}

// maxDepth bounds the recursion of a scanner that has no limit of its own.
const maxDepth = 1000

func (s *scanner) fail(what string) error {
	return NewError(CodeInvalidRequest, "malformed JSON at byte %d: %s", s.i, what)
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) end() error {
	s.space()
	if s.i != len(s.b) {
		return s.fail("text after the value")
	}
	return nil
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() == c && s.i < len(s.b) {
		s.i++
		return true
	}
	return false
}

func (s *scanner) value(depth int) error {
	if depth > maxDepth || (s.lim.Depth > 0 && depth > s.lim.Depth) {
		return NewError(CodeTooLarge, "JSON nests too deeply")
	}
	s.values++
	if s.lim.Values > 0 && s.values > s.lim.Values {
		return NewError(CodeTooLarge, "JSON has too many values")
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(depth)
	case c == '[':
		return s.array(depth)
	case c == '"':
		return s.str()
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return s.fail("expected a value")
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.b[s.i:], []byte(w)) {
		return s.fail("expected " + w)
	}
	s.i += len(w)
	return nil
}

func (s *scanner) array(depth int) error {
	s.i++
	for first := true; ; first = false {
		s.space()
		if s.take(']') {
			return nil
		}
		if !first {
			if !s.take(',') {
				return s.fail("expected , or ]")
			}
			s.space()
			if s.peek() == ']' {
				return s.fail("expected a value")
			}
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
}

func (s *scanner) object(depth int) error {
	s.i++
	var seen memberSet
	for first := true; ; first = false {
		s.space()
		if s.take('}') {
			return nil
		}
		if !first {
			if !s.take(',') {
				return s.fail("expected , or }")
			}
			s.space()
		}
		start := s.i
		if s.peek() != '"' {
			return s.fail("expected a member")
		}
		if err := s.str(); err != nil {
			return err
		}
		if s.strict && !seen.add(s.b[start:s.i]) {
			return s.fail("a member stands twice")
		}
		s.space()
		if !s.take(':') {
			return s.fail("expected :")
		}
		s.space()
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
}

func (s *scanner) key() ([]byte, error) {
	start := s.i
	if s.peek() != '"' {
		return nil, s.fail("expected a member")
	}
	if err := s.str(); err != nil {
		return nil, err
	}
	return unquoteKey(s.b[start:s.i]), nil
}

// unquoteKey decodes the key of a member: the quoted text q, known to be well formed.
// The result is part of q where it can be.
func unquoteKey(q []byte) []byte {
	n := len(q) - 1
	if bytes.IndexByte(q, '\\') < 0 {
		return q[1:n:n]
	}
	var k string
	_ = json.Unmarshal(q, &k)
	return []byte(k)
}

func (s *scanner) str() error {
	for s.i = skipPlain(s.b, s.i+1); s.i < len(s.b); s.i = skipPlain(s.b, s.i+1) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return nil
		case c < 0x20:
			return s.fail("control character in a string")
		default: // a backslash
			s.i++
			switch s.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if s.i+4 >= len(s.b) {
					return s.fail("unfinished escape")
				}
				for _, h := range s.b[s.i+1 : s.i+5] {
					if !(h >= '0' && h <= '9' || h >= 'a' && h <= 'f' || h >= 'A' && h <= 'F') {
						return s.fail("bad escape")
					}
				}
				s.i += 4
			default:
				return s.fail("bad escape")
			}
		}
	}
	return s.fail("unfinished string")
}

func (s *scanner) number() error {
	digits := func() bool {
		start := s.i
		for s.peek() >= '0' && s.peek() <= '9' {
			s.i++
		}
		return s.i > start
	}
	s.take('-')
	if !s.take('0') && !digits() {
		return s.fail("bad number")
	}
	if s.take('.') && !digits() {
		return s.fail("bad number")
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !digits() {
			return s.fail("bad number")
		}
	}
	return nil
}

// memberSet finds a repeated key: by comparison while there are few, by a map
// when there are many. Keys are compared decoded, so that "a" and "\u0061" are
// the same member.
type memberSet struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

func (m *memberSet) add(quoted []byte) bool {
	key := unquoteKey(quoted)
	if m.many != nil {
		_, dup := m.many[string(key)]
		m.many[string(key)] = struct{}{}
		return !dup
	}
	for _, k := range m.few[:m.n] {
		if bytes.Equal(k, key) {
			return false
		}
	}
	if m.n < len(m.few) {
		m.few[m.n] = key
		m.n++
		return true
	}
	m.many = make(map[string]struct{}, 32)
	for _, k := range m.few {
		m.many[string(k)] = struct{}{}
	}
	m.many[string(key)] = struct{}{}
	return true
}
