package scopeindex

import (
	"encoding/binary"
	"math"

	"github.com/tidemark-sync/tidemark"
)

// keyOf gives values of one kind a number each, in their order: a smaller value never has a
// greater number. Different texts may have the same one. So numbers that differ decide, without a look at
// the values; ones that are equal do not. Null's means nothing.
func keyOf(v tidemark.Value) int64 {
	switch v.Kind() {
	case 0:
		return 0
	case tidemark.Integer, tidemark.Timestamp, tidemark.Bool:
		return v.Int()
	case tidemark.Double:
		n := int64(math.Float64bits(v.Float()))
		return n ^ n>>63&math.MaxInt64 // of negative numbers the greater has the smaller bits
	}
	var first [8]byte
	copy(first[:], v.Text())
	return int64(binary.BigEndian.Uint64(first[:]) ^ 1<<63)
}

func keyOfLow(b *tidemark.Bound) int64 {
	if b == nil {
		return math.MinInt64
	}
	return keyOf(b.Value)
}

func keyOfHigh(b *tidemark.Bound) int64 {
	if b == nil {
		return math.MaxInt64
	}
	return keyOf(b.Value)
}
