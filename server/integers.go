package server

import (
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// JavaScript holds integers up to 2^53 exactly. With Options.IntegersAsText the
// larger ones are strings on the wire.
const maxExact = 1 << 53

func inexact(i int64) bool { return i > maxExact || i < -maxExact }

// encode returns the JSON text of a result of the service for a caller.
func (svc *Service) encode(v any, caller Caller) (json.RawMessage, error) {
	if caller == CallerClient && svc.server.opts.IntegersAsText {
		v = svc.withTexts(v)
	}
	raw, err := encode(v)
	if err != nil { // what cannot be JSON is the program's mistake, and says nothing to a client
		err = driverError(err)
	}
	return raw, err
}

// withTexts returns a result of a model with its large integers as text. A
// sync's result has that already, model by model.
func (svc *Service) withTexts(v any) any {
	if svc.model == nil {
		return v
	}
	switch v := v.(type) {
	case tidemark.Row:
		return textOfIntegers(svc.model, v)
	case *tidemark.RowMeta:
		if v != nil {
			return &tidemark.RowMeta{Row: textOfIntegers(svc.model, v.Row), Meta: v.Meta}
		}
	case []tidemark.Row:
		rows := make([]tidemark.Row, len(v))
		for i, row := range v {
			rows[i] = textOfIntegers(svc.model, row)
		}
		return rows
	}
	return v
}

// textOfIntegers returns row with its large integers as strings.
func textOfIntegers(s *tidemark.Schema, row tidemark.Row) tidemark.Row {
	patch := changed(row, func(key string, value []byte) []byte {
		if f, ok := s.Field(key); !ok || f.Kind != tidemark.Integer || len(value) < 16 || value[0] == '"' {
			return nil
		}
		if i, err := strconv.ParseInt(string(value), 10, 64); err != nil || !inexact(i) {
			return nil
		}
		return append(append([]byte{'"'}, value...), '"')
	})
	if patch == nil {
		return row
	}
	return row.Merge(patch)
}

// integersOfText returns an object of a client, data or a where, with the strings
// that textOfIntegers makes as numbers again, also as bounds. What is malformed stays as it is.
func integersOfText(s *tidemark.Schema, object []byte) []byte {
	patch := changed(object, func(key string, value []byte) []byte {
		f, ok := s.Field(key)
		switch {
		case !ok || f.Kind != tidemark.Integer:
			return nil
		case len(value) > 0 && value[0] == '{':
			if bounds := changed(value, func(_ string, bound []byte) []byte { return integerOfText(bound) }); bounds != nil {
				return tidemark.Row(value).Merge(bounds)
			}
			return nil
		}
		return integerOfText(value)
	})
	if patch == nil {
		return object
	}
	return tidemark.Row(object).Merge(patch)
}

// integerOfText returns the digits of a large integer that is quoted, nil for anything else.
func integerOfText(value []byte) []byte {
	if len(value) < 18 || value[0] != '"' {
		return nil
	}
	digits := value[1 : len(value)-1]
	i, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || !inexact(i) || strconv.FormatInt(i, 10) != string(digits) {
		return nil
	}
	return digits
}

// changed returns an object of the members for which fn has another value than
// nil; nil when there are none, or the object is malformed.
func changed(object []byte, fn func(key string, value []byte) []byte) tidemark.Row {
	var patch tidemark.Row
	err := tidemark.EachMember(object, func(key string, value []byte) error {
		v := fn(key, value)
		if v == nil {
			return nil
		}
		if patch == nil {
			patch = tidemark.Row{'{'}
		} else {
			patch = append(patch, ',')
		}
		patch = append(tidemark.AppendString(patch, key), ':')
		patch = append(patch, v...)
		return nil
	})
	if err != nil || patch == nil {
		return nil
	}
	return append(patch, '}')
}
