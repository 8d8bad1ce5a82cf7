package tidemark

import (
	"bytes"
	"encoding/json"
)

// MaxJSONDepth is how deep a value of a JSON column may nest: a value in an array in
// an array is three deep. Within a push, whose envelope takes seven levels, it is what the
// sixteen levels of a client's message leave.
const MaxJSONDepth = 9

// MaxJSONValues is how many values JSON of so many bytes may have that a client sends,
// white space between them not counted. It goes for a message, and for the columns of one write together,
// since the envelope of a push has more than three bytes for each of its own values.
func MaxJSONValues(size int) int { return 1024 + size/3 }

// checkPushable reports whether a write of these columns can be pushed, as [MaxJSONDepth] and
// [MaxJSONValues] bound it; values are those of patch, in the order of the schema. The error
// is [CodeTooLarge], with the field.
func (s *Schema) checkPushable(patch Row, values [][]byte) error {
	total, most, widest := 1, 0, ""
	for i, v := range values {
		if v == nil {
			continue
		}
		n := 1
		if field := &s.fields[i]; field.Kind == JSON {
			scan := scanner{b: v, lim: JSONLimits{Depth: MaxJSONDepth}}
			scan.space()
			if err := scan.value(1); err != nil {
				return NewError(CodeTooLarge, "%s: JSON nests deeper than %d", field.Name, MaxJSONDepth).OnField(field.Name)
			}
			if n = scan.values; n > most {
				most, widest = n, field.Name
			}
		}
		total += n
	}
	if total <= MaxJSONValues(0) {
		return nil
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, patch); err != nil || total > MaxJSONValues(plain.Len()) {
		return NewError(CodeTooLarge, "%s: JSON of too many values for its length", widest).OnField(widest)
	}
	return nil
}
