package tidemark

import (
	"bytes"
	"strconv"
)

// ScopePage is a page of a scope as it travels: the names of the fields once, then the
// values of each row, then its stamps, as differences in microseconds.
//
//	{"cursor":"...","after":"...","total":3,
//	 "blocks":[{"fields":["uid","title"],"rows":[["a","A",1767225600000000],["b","B",25,1000]]}],
//	 "gone":[["c",1767225600000123],["d",1767225600000456,"deleted"]]}
//
// After the values of a row stand the difference of its created_at to that of the row
// before (0 before the first), and, unless it is null, that of its updated_at to its
// own created_at. A row without metadata has created_at 0.
type ScopePage struct {
	// Cursor is the log's at the page's moment. That of the first page of a pass is the copy's
	// when the pass is over.
	Cursor string
	// After is the uid after which the next page begins; "" when this is the last one.
	After string
	// Total is how many rows the scope selects; only on the first page of a pass from the beginning.
	Total int
	// Rows are the rows that the scope selects and that changed.
	Rows []RowMeta
	// Gone are uids whose rows the scope no longer selects.
	Gone []Departure
}

// Departure says that a row left: that it was deleted, or that it is none of the scope's
// any more.
type Departure struct {
	UID     string // names the row
	At      Stamp  // of the version that is no longer there
	Deleted bool
}

// Meta returns the departure as metadata: a tombstone, which keeps older messages from
// bringing the row back.
func (d Departure) Meta() Meta { return Meta{UID: d.UID, DeletedAt: max(d.At, 1)} }

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

func (p *ScopePage) size() int {
	n := 200
	for i := range p.Rows {
		n += len(p.Rows[i].Row) + 16
	}
	return n + 80*len(p.Gone)
}

// MarshalJSON gives the object.
func (p ScopePage) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// AppendJSON appends the object to b. Rows are objects; of one that is not, nothing is sent.
func (p *ScopePage) AppendJSON(b []byte) []byte {
	if b == nil {
		b = make([]byte, 0, p.size())
	}
	b = AppendString(append(b, `{"cursor":`...), p.Cursor)
	if p.After != "" {
		b = AppendString(append(b, `,"after":`...), p.After)
	}
	if p.Total > 0 {
		b = appendInt(append(b, `,"total":`...), int64(p.Total))
	}
	b = append(b, `,"blocks":[`...)
	var w blockWriter
	for i := range p.Rows {
		b = w.append(b, &p.Rows[i])
	}
	b = append(w.end(b), ']')
	for i, d := range p.Gone {
		if i == 0 {
			b = append(b, `,"gone":[[`...)
		} else {
			b = append(b, `,[`...)
		}
		b = appendInt(append(AppendString(b, d.UID), ','), int64(d.At))
		if d.Deleted {
			b = append(b, `,"deleted"`...)
		}
		b = append(b, ']')
	}
	if len(p.Gone) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

// blockWriter writes rows; a row with other fields than the one before begins a block.
type blockWriter struct {
	fields  [][]byte // of the block under way
	values  [][]byte // of the row under way
	names   [][]byte
	open    bool
	created Stamp
}

func (w *blockWriter) append(b []byte, rm *RowMeta) []byte {
	w.names, w.values = w.names[:0], w.values[:0]
	if EachField(rm.Row, func(key, value []byte) error {
		w.names, w.values = append(w.names, key), append(w.values, value)
		return nil
	}) != nil {
		return b
	}
	if !w.open || !sameNames(w.names, w.fields) {
		b = w.begin(b)
	} else {
		b = append(b, ',')
	}
	b = append(b, '[')
	for _, v := range w.values {
		b = append(append(b, v...), ',')
	}
	b = appendInt(b, int64(rm.Meta.CreatedAt-w.created))
	w.created = rm.Meta.CreatedAt
	if rm.Meta.UpdatedAt != 0 {
		b = appendInt(append(b, ','), int64(rm.Meta.UpdatedAt-rm.Meta.CreatedAt))
	}
	return append(b, ']')
}

func (w *blockWriter) begin(b []byte) []byte {
	if b = w.end(b); len(w.fields) > 0 {
		b = append(b, ',')
	}
	w.open = true
	w.fields = append(w.fields[:0], w.names...)
	b = append(b, `{"fields":[`...)
	for i, name := range w.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, string(name))
	}
	return append(b, `],"rows":[`...)
}

func (w *blockWriter) end(b []byte) []byte {
	if !w.open {
		return b
	}
	w.open = false
	return append(b, `]}`...)
}

func sameNames(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// UnmarshalJSON reads the object. Anything malformed refuses the whole, as CodeInvalidData.
func (p *ScopePage) UnmarshalJSON(raw []byte) error {
	*p = ScopePage{}
	r := blockReader{page: p}
	return EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "cursor":
			p.Cursor, err = DecodeString(value)
		case "after":
			p.After, err = DecodeString(value)
		case "total":
			var n int64
			n, err = parseInteger(value)
			p.Total = int(max(n, 0))
		case "blocks":
			err = EachElement(value, func(_ int, block []byte) error { return r.block(block) })
		case "gone":
			err = EachElement(value, func(_ int, v []byte) error {
				d, err := parseDeparture(v)
				p.Gone = append(p.Gone, d)
				return err
			})
		}
		return err
	})
}

func parseDeparture(raw []byte) (d Departure, err error) {
	err = EachElement(raw, func(i int, v []byte) (err error) {
		switch i {
		case 0:
			d.UID, err = DecodeString(v)
		case 1:
			var at int64
			at, err = parseInteger(v)
			d.At = Stamp(at)
		case 2:
			d.Deleted = isText(v, "deleted")
		}
		return err
	})
	if err == nil && (d.UID == "" || d.At < 0) {
		err = NewError(CodeInvalidData, "a departure needs a uid and a date")
	}
	return d, err
}

// blockReader makes rows of a page's blocks.
type blockReader struct {
	page    *ScopePage
	keys    [][]byte // what stands before the i-th value of a row: {"uid": or ,"title":
	uid     int      // which value is the uid
	created Stamp
}

func (r *blockReader) block(raw []byte) error {
	r.keys, r.uid = nil, -1
	return EachMember(raw, func(key string, value []byte) error {
		switch {
		case key == "fields":
			return EachElement(value, r.field)
		case key == "rows" && r.uid < 0:
			return NewError(CodeInvalidData, "a block needs the field uid, before its rows")
		case key == "rows":
			return EachElement(value, r.row)
		}
		return nil
	})
}

func (r *blockReader) field(i int, v []byte) error {
	name, err := DecodeString(v)
	if err != nil {
		return err
	}
	if name == "uid" {
		r.uid = i
	}
	k := []byte{','}
	if i == 0 {
		k[0] = '{'
	}
	k = append(AppendString(k, name), ':')
	for _, other := range r.keys {
		if bytes.Equal(other[1:], k[1:]) { // v may spell the name otherwise
			return NewError(CodeInvalidData, "a field stands twice")
		}
	}
	r.keys = append(r.keys, k)
	return nil
}

func (r *blockReader) row(_ int, raw []byte) error {
	rm := RowMeta{Row: make(Row, 0, len(raw)+r.width())}
	var stamps [2]int64
	n := 0
	err := EachElement(raw, func(i int, v []byte) (err error) {
		n++
		if i < len(r.keys) {
			rm.Row = append(append(rm.Row, r.keys[i]...), v...)
			if i == r.uid {
				rm.Meta.UID, err = DecodeString(v)
			}
			return err
		}
		if i -= len(r.keys); i >= len(stamps) {
			return NewError(CodeInvalidData, "a row has too many values")
		}
		stamps[i], err = parseInteger(v)
		return err
	})
	switch {
	case err != nil:
		return err
	case n <= len(r.keys) || rm.Meta.UID == "":
		return NewError(CodeInvalidData, "a row lacks values")
	}
	rm.Row = append(rm.Row, '}')
	r.created += Stamp(stamps[0])
	rm.Meta.CreatedAt = r.created
	if n == len(r.keys)+2 {
		rm.Meta.UpdatedAt = r.created + Stamp(stamps[1])
	}
	if rm.Meta.CreatedAt < 0 || rm.Meta.UpdatedAt < 0 {
		return NewError(CodeInvalidData, "a stamp is out of range")
	}
	r.page.Rows = append(r.page.Rows, rm)
	return nil
}

func (r *blockReader) width() int {
	n := 2
	for _, k := range r.keys {
		n += len(k)
	}
	return n
}
