package drivertest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// differ says where two rows of a schema differ, "" when they are the same: the
// same members in the order of the schema, canonical, numbers and JSON by value.
func differ(s *tidemark.Schema, got, want tidemark.Row) string {
	if (got == nil) != (want == nil) {
		return fmt.Sprintf("got row %s, want %s", show(got), show(want))
	}
	if got == nil {
		return ""
	}
	fields := s.Fields()
	i := 0
	err := tidemark.EachMember(got, func(key string, value []byte) error {
		if i >= len(fields) || fields[i].Name != key {
			return fmt.Errorf("member %d is %s; members must be the columns in the order of the schema", i, key)
		}
		if !same(fields[i].Kind, value, want.Get(key)) {
			return fmt.Errorf("%s: got %s, want %s", key, value, want.Get(key))
		}
		i++
		return nil
	})
	switch {
	case err != nil:
		return err.Error()
	case i != len(fields):
		return fmt.Sprintf("%d members, want %d: %s", i, len(fields), got)
	}
	return ""
}

func show(r tidemark.Row) string {
	if r == nil {
		return "nothing"
	}
	return string(r)
}

func same(k tidemark.Kind, got, want []byte) bool {
	if want == nil {
		want = []byte("null")
	}
	if string(got) == "null" || string(want) == "null" {
		return string(got) == string(want)
	}
	switch k {
	case tidemark.Double:
		a, err1 := strconv.ParseFloat(string(got), 64)
		b, err2 := strconv.ParseFloat(string(want), 64)
		return err1 == nil && err2 == nil && a == b
	case tidemark.JSON:
		var a, b any
		return json.Unmarshal(got, &a) == nil && json.Unmarshal(want, &b) == nil && reflect.DeepEqual(a, b)
	case tidemark.Text:
		a, err1 := tidemark.DecodeString(got)
		b, err2 := tidemark.DecodeString(want)
		return err1 == nil && err2 == nil && a == b
	}
	return string(got) == string(want)
}
