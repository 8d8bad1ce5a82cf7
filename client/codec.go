package client

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
)

// codec turns structs of one type into rows and back. It is compiled once a type;
// per row there is neither a map nor a look at tags.
type codec struct {
	schema *tidemark.Schema
	typ    reflect.Type
	fields []field
	byName map[string]int
	uid    int // the index in fields of uid
}

type field struct {
	tidemark.Field
	index    []int
	typ      reflect.Type // without the pointer
	nullable bool         // the struct's field is a pointer
	omit     bool         // an empty value is left out of a new row
	encode   func(b []byte, v reflect.Value) ([]byte, error)
	decode   func(raw []byte, v reflect.Value) error
}

func compile[T any](model string) (*codec, error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return nil, tidemark.NewError(tidemark.CodeInvalidData, "model %s: %s is not a struct", model, t)
	}
	c := &codec{typ: t, byName: map[string]int{}, uid: -1}
	if err := c.add(model, t, nil); err != nil {
		return nil, err
	}
	i, ok := c.byName["uid"]
	if !ok || c.fields[i].typ.Kind() != reflect.String || c.fields[i].nullable || c.fields[i].Kind != tidemark.Text {
		return nil, tidemark.NewError(tidemark.CodeInvalidData, "model %s: %s has no column uid of type string: a field with the tag json:\"uid\"", model, t)
	}
	c.uid = i
	return c, nil
}

// add compiles the fields of a struct, and those of structs embedded in it.
func (c *codec) add(model string, t reflect.Type, path []int) error {
	for i := range t.NumField() {
		sf := t.Field(i)
		index := append(slices.Clone(path), i)
		tag, hasTag := sf.Tag.Lookup("json")
		name, rest, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-":
			continue
		case sf.Anonymous && !hasTag && sf.Type.Kind() == reflect.Struct:
			if err := c.add(model, sf.Type, index); err != nil {
				return err
			}
			continue
		case !sf.IsExported():
			continue
		case name == "":
			name = sf.Name
		}
		f := field{index: index, omit: strings.Contains(rest, "omit")}
		f.Name = name
		if err := f.compile(sf.Type, sf.Tag.Get("tidemark")); err != nil {
			return tidemark.NewError(tidemark.CodeInvalidData, "model %s: field %s: %s", model, sf.Name, err).OnField(name)
		}
		if _, twice := c.byName[name]; twice {
			return tidemark.NewError(tidemark.CodeUnknownField, "model %s: column %s stands twice", model, name).OnField(name)
		}
		c.byName[name] = len(c.fields)
		c.fields = append(c.fields, f)
	}
	return nil
}

func (c *codec) columns() []tidemark.Field {
	out := make([]tidemark.Field, len(c.fields))
	for i, f := range c.fields {
		out[i] = f.Field
	}
	return out
}

var namedKinds = map[string]tidemark.Kind{
	"numeric": tidemark.Numeric, "uuid": tidemark.UUID, "date": tidemark.Date, "time": tidemark.TimeOfDay, "enum": tidemark.Enum,
}

func (f *field) compile(t reflect.Type, options string) error {
	f.typ = t
	if t.Kind() == reflect.Pointer {
		f.typ, f.nullable = t.Elem(), true
	}
	f.choose()
	for option := range strings.SplitSeq(options, ",") {
		kind, isKind := namedKinds[option]
		switch {
		case option == "":
		case option == "index":
			f.Indexed = true
		case option == "readonly":
			f.ReadOnly = true
		case !isKind:
			return fmt.Errorf("unknown option %q", option)
		case option == "date" && f.typ == timeType:
			f.Kind, f.encode, f.decode = tidemark.Date, encodeDate, decodeDate
		case f.Kind != tidemark.Text && f.Kind != kind:
			return fmt.Errorf("a %s is no %s", f.typ, option)
		default:
			f.Kind = kind
		}
	}
	if f.encode == nil {
		return fmt.Errorf("%s cannot be a column", t)
	}
	return nil
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
	uuidType = reflect.TypeFor[uuid.UUID]()
)

// choose finds the kind of the field's type, and how its values become JSON.
func (f *field) choose() {
	pointer := reflect.PointerTo(f.typ)
	switch {
	case f.typ == timeType:
		f.Kind, f.encode, f.decode = tidemark.Timestamp, encodeTime, decodeTime
		return
	case f.typ == rawType:
		f.Kind, f.encode, f.decode = tidemark.JSON, encodeRaw, decodeRaw
		return
	case pointer.Implements(reflect.TypeFor[json.Unmarshaler]()):
		f.Kind, f.encode, f.decode = tidemark.JSON, encodeJSON, decodeJSON
		return
	case pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		f.Kind, f.encode, f.decode = tidemark.Text, encodeJSON, decodeJSON
		if f.typ == uuidType {
			f.Kind = tidemark.UUID
		}
		return
	}
	switch f.typ.Kind() {
	case reflect.String:
		f.Kind, f.encode, f.decode = tidemark.Text, encodeString, decodeString
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		f.Kind, f.encode, f.decode = tidemark.Integer, encodeInt, decodeInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		f.Kind, f.encode, f.decode = tidemark.Integer, encodeUint, decodeUint
	case reflect.Float32, reflect.Float64:
		f.Kind, f.encode, f.decode = tidemark.Double, encodeFloat, decodeFloat
	case reflect.Bool:
		f.Kind, f.encode, f.decode = tidemark.Bool, encodeBool, decodeBool
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Uintptr:
	default:
		f.Kind, f.encode, f.decode = tidemark.JSON, encodeJSON, decodeJSON
		if f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() == reflect.Uint8 {
			f.Kind, f.encode, f.decode = tidemark.Bytes, encodeBytes, decodeBytes
		}
	}
}

// uidOf returns the uid of the struct that row points to.
func (c *codec) uidOf(row any) string {
	return reflect.ValueOf(row).Elem().FieldByIndex(c.fields[c.uid].index).String()
}

// encode returns the columns of the struct that row points to, canonical and without uid.
func (c *codec) encode(uid string, row any) (tidemark.Row, error) {
	v := reflect.ValueOf(row).Elem()
	b := make([]byte, 0, 64*len(c.fields))
	b = append(b, '{')
	for i := range c.fields {
		f := &c.fields[i]
		fv := v.FieldByIndex(f.index)
		if i == c.uid || f.ReadOnly || f.omit && empty(fv) {
			continue
		}
		var err error
		if b, err = f.appendMember(b, fv); err != nil {
			return nil, err
		}
	}
	data, _, err := c.schema.Patch(uid, append(b, '}'))
	return data, err
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

func (f *field) appendMember(b []byte, v reflect.Value) ([]byte, error) {
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = append(tidemark.AppendString(b, f.Name), ':')
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		v = v.Elem()
	}
	b, err := f.encode(b, v)
	if err != nil {
		return nil, tidemark.Wrap(err, tidemark.CodeInvalidData, "%s: the value cannot be stored", f.Name).OnField(f.Name)
	}
	return b, nil
}

// patch returns the columns of p, canonical. Values that the struct could not
// hold are refused: nobody could read the row any more.
func (c *codec) patch(uid string, p Patch) (tidemark.Row, error) {
	b := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(p)) {
		i, ok := c.byName[name]
		if !ok {
			return nil, tidemark.NewError(tidemark.CodeUnknownField, "model %s has no field %q", c.schema.Name(), name).OnField(name)
		}
		f := &c.fields[i]
		if f.ReadOnly {
			return nil, tidemark.NewError(tidemark.CodeInvalidData, "%s is read-only", name).OnField(name)
		}
		var err error
		if b, err = f.appendAny(b, p[name]); err != nil {
			return nil, err
		}
	}
	data, _, err := c.schema.Patch(uid, append(b, '}'))
	if err != nil {
		return nil, err
	}
	return data, c.decode(data, reflect.New(c.typ).Interface())
}

// appendAny is appendMember for a value of whatever type: one of the field's own,
// or one whose JSON the field's kind accepts.
func (f *field) appendAny(b []byte, value any) ([]byte, error) {
	v := reflect.ValueOf(value)
	if v.IsValid() && v.Kind() == reflect.Pointer && v.Type().Elem() == f.typ {
		return f.appendMember(b, v)
	}
	if v.IsValid() && v.Type() == f.typ {
		return f.appendMember(b, v)
	}
	loose := field{Field: f.Field, encode: encodeJSON}
	if !v.IsValid() {
		return loose.appendMember(b, reflect.ValueOf((*int)(nil)))
	}
	if _, ok := value.(time.Time); ok && f.Kind == tidemark.Timestamp {
		loose.encode = encodeTime
	}
	return loose.appendMember(b, v)
}

// decode sets the struct that out points to. Columns that the row lacks stay as they are.
func (c *codec) decode(row tidemark.Row, out any) error {
	v := reflect.ValueOf(out).Elem()
	next := 0 // rows mostly have their columns in the struct's order
	return tidemark.EachField(row, func(key, raw []byte) error {
		i := next
		if i >= len(c.fields) || c.fields[i].Name != string(key) {
			var ok bool
			if i, ok = c.byName[string(key)]; !ok {
				return nil
			}
		}
		next = i + 1
		f := &c.fields[i]
		fv := v.FieldByIndex(f.index)
		if string(raw) == "null" && f.typ != rawType {
			fv.SetZero()
			return nil
		}
		if f.nullable {
			fv.Set(reflect.New(f.typ))
			fv = fv.Elem()
		}
		if err := f.decode(raw, fv); err != nil {
			return tidemark.Wrap(err, tidemark.CodeInvalidData, "%s: the value does not fit %s", f.Name, f.typ).OnField(f.Name)
		}
		return nil
	})
}

func decodeAll[T any](c *codec, rows []tidemark.Row) ([]T, error) {
	out := make([]T, len(rows))
	for i, row := range rows {
		if err := c.decode(row, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// The encoders and decoders of Go's types.

var errRange = errors.New("the number does not fit the type")

func encodeString(b []byte, v reflect.Value) ([]byte, error) {
	s := v.String()
	if !validText(s) {
		return nil, errors.New("text contains the character NUL or is not valid UTF-8")
	}
	return tidemark.AppendString(b, s), nil
}

func validText(s string) bool {
	return strings.ToValidUTF8(s, "") == s && !strings.Contains(s, "\x00")
}

func decodeString(raw []byte, v reflect.Value) error {
	if len(raw) > 0 && raw[0] != '"' { // a number in a numeric column of an undeclared past
		v.SetString(string(raw))
		return nil
	}
	if n := len(raw) - 1; n > 0 && raw[0] == '"' && raw[n] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		v.SetString(alias(raw[1:n]))
		return nil
	}
	s, err := tidemark.DecodeString(raw)
	v.SetString(s)
	return err
}

// alias is string(b) without a copy: rows are not modified, and a struct that keeps a text of
// its row keeps the row.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func encodeInt(b []byte, v reflect.Value) ([]byte, error) {
	return strconv.AppendInt(b, v.Int(), 10), nil
}

func decodeInt(raw []byte, v reflect.Value) error {
	n, err := integer(raw)
	if err != nil {
		return err
	}
	if v.OverflowInt(n) {
		return errRange
	}
	v.SetInt(n)
	return nil
}

func integer(raw []byte) (int64, error) {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, nil
	}
	x, err := tidemark.ValueOf(tidemark.Integer, raw)
	return x.Int(), err
}

func encodeUint(b []byte, v reflect.Value) ([]byte, error) {
	if v.Uint() > math.MaxInt64 {
		return nil, errRange
	}
	return strconv.AppendUint(b, v.Uint(), 10), nil
}

func decodeUint(raw []byte, v reflect.Value) error {
	n, err := integer(raw)
	if err != nil {
		return err
	}
	if n < 0 || v.OverflowUint(uint64(n)) {
		return errRange
	}
	v.SetUint(uint64(n))
	return nil
}

func encodeFloat(b []byte, v reflect.Value) ([]byte, error) {
	f := v.Float()
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("not a finite number")
	}
	return strconv.AppendFloat(b, f, 'g', -1, v.Type().Bits()), nil
}

func decodeFloat(raw []byte, v reflect.Value) error {
	f, err := strconv.ParseFloat(string(raw), v.Type().Bits())
	v.SetFloat(f)
	return err
}

func encodeBool(b []byte, v reflect.Value) ([]byte, error) {
	return strconv.AppendBool(b, v.Bool()), nil
}

func decodeBool(raw []byte, v reflect.Value) error {
	t, err := strconv.ParseBool(string(raw))
	v.SetBool(t)
	return err
}

func encodeTime(b []byte, v reflect.Value) ([]byte, error) {
	us, err := tidemark.InstantOf(v.Interface().(time.Time))
	if err != nil {
		return nil, err
	}
	b = append(b, '"')
	b = tidemark.AppendInstant(b, us)
	return append(b, '"'), nil
}

func decodeTime(raw []byte, v reflect.Value) error {
	at, err := tidemark.ValueOf(tidemark.Timestamp, raw)
	if err == nil {
		*v.Addr().Interface().(*time.Time) = time.UnixMicro(at.Int()).UTC()
	}
	return err
}

func encodeDate(b []byte, v reflect.Value) ([]byte, error) {
	return v.Interface().(time.Time).AppendFormat(b, `"2006-01-02"`), nil
}

func decodeDate(raw []byte, v reflect.Value) error {
	t, err := time.Parse(`"2006-01-02"`, string(raw))
	v.Set(reflect.ValueOf(t))
	return err
}

func encodeBytes(b []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, v.Bytes())
	return append(b, '"'), nil
}

func decodeBytes(raw []byte, v reflect.Value) error {
	s, err := tidemark.DecodeString(raw)
	if err != nil {
		return err
	}
	data, err := base64.StdEncoding.DecodeString(s)
	v.SetBytes(data)
	return err
}

func encodeRaw(b []byte, v reflect.Value) ([]byte, error) {
	raw := v.Bytes()
	if len(bytes.TrimSpace(raw)) == 0 {
		return append(b, "null"...), nil
	}
	if !json.Valid(raw) {
		return nil, errors.New("not JSON")
	}
	return append(b, raw...), nil
}

func decodeRaw(raw []byte, v reflect.Value) error {
	v.SetBytes(bytes.Clone(raw))
	return nil
}

// encodeJSON refuses what encoding/json would change: it writes bytes that are
// not UTF-8 as an escape, which other text has only when it was made elsewhere.
func encodeJSON(b []byte, v reflect.Value) ([]byte, error) {
	raw, err := encodePlain(v.Interface())
	if err == nil && bytes.Contains(raw, []byte(`\ufffd`)) && !allText(v) {
		err = errors.New("text is not valid UTF-8")
	}
	return append(b, raw...), err
}

// allText reports whether all texts in v are valid UTF-8.
func allText(v reflect.Value) bool {
	if v.IsValid() && v.CanInterface() {
		switch x := v.Interface().(type) {
		case json.Marshaler:
			return true // encoding/json takes its text as it is
		case encoding.TextMarshaler:
			text, err := x.MarshalText()
			return err == nil && utf8.Valid(text)
		}
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return allText(v.Elem())
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if !allText(v.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			if !allText(key) || !allText(value) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); (f.IsExported() || f.Anonymous) && !allText(v.Field(i)) {
				return false
			}
		}
	}
	return true
}

func decodeJSON(raw []byte, v reflect.Value) error { return json.Unmarshal(raw, v.Addr().Interface()) }
