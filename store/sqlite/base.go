package sqlite

import (
	"encoding/binary"

	"github.com/tidemark-sync/tidemark"
)

// The server's state of a row is kept as what differs from the visible row: how
// many bytes both begin and end with, and what is between them. A pending write
// changes a column or two, so a record hardly grows by it: rows stay where they
// are in the file, and a commit writes one page of it rather than two or three.

// baseOf returns base as it is kept beside row: nil when both are the same, the
// empty text when the server has no row.
func baseOf(row, base tidemark.Row) any {
	if len(base) == 0 {
		if len(row) == 0 {
			return nil
		}
		return ""
	}
	begin, end := 0, 0
	most := min(len(row), len(base))
	for begin < most && row[begin] == base[begin] {
		begin++
	}
	if begin == len(row) && begin == len(base) {
		return nil
	}
	for end < most-begin && row[len(row)-1-end] == base[len(base)-1-end] {
		end++
	}
	b := make([]byte, 0, 2*binary.MaxVarintLen32+len(base)-begin-end)
	b = binary.AppendUvarint(b, uint64(begin))
	b = binary.AppendUvarint(b, uint64(end))
	return append(b, base[begin:len(base)-end]...)
}

// baseFrom is the inverse of baseOf, for what is neither nil nor empty. It
// returns false for what baseOf cannot have given.
func baseFrom(row tidemark.Row, kept []byte) (tidemark.Row, bool) {
	begin, n := binary.Uvarint(kept)
	if n <= 0 {
		return nil, false
	}
	end, k := binary.Uvarint(kept[n:])
	length := uint64(len(row))
	if k <= 0 || begin > length || end > length-begin {
		return nil, false
	}
	middle := kept[n+k:]
	base := make(tidemark.Row, 0, int(begin+end)+len(middle))
	base = append(append(base, row[:begin]...), middle...)
	return append(base, row[length-end:]...), true
}

// readBase returns the server's row as the columns row and base have it.
func readBase(row tidemark.Row, kept []byte) (tidemark.Row, error) {
	switch {
	case kept == nil:
		return row, nil // neither is modified
	case len(kept) == 0:
		return nil, nil
	}
	base, ok := baseFrom(row, kept)
	if !ok {
		return nil, errValue
	}
	return base, nil
}
