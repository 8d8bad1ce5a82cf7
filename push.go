package tidemark

// A batch travels as
//
//	{"client":"...","confirmed":4,"first":5,"mutations":[
//	  ["create","post","uid",1767225600000000,{"title":"A"}],
//	  ["update","post","uid",1767225600000001,{"title":"B"},7],
//	  ["delete","post","uid",1767225600000002,null,7]]}
//
// op, model, uid, stamp in microseconds, data, and for a member of a unit the number of the
// unit's last mutation; the answer as
//
//	{"now":"...","first":5,"verdicts":[
//	  ["applied",{row},[created_at,updated_at,deleted_at]],
//	  ["superseded",{row},[...]],
//	  ["rejected",null,null,{"code":"...","message":"..."}]]}
//
// with stamps in microseconds, 0 for null, the last ones left out where they are 0.

// MarshalJSON gives the batch as it travels: without Owner and Refused.
func (b *Batch) MarshalJSON() ([]byte, error) {
	size := 100
	for i := range b.Mutations {
		size += len(b.Mutations[i].Data) + 100
	}
	out := AppendString(append(make([]byte, 0, size), `{"client":`...), b.Client)
	out = appendInt(append(out, `,"confirmed":`...), b.Confirmed)
	if len(b.Mutations) > 0 {
		out = appendInt(append(out, `,"first":`...), b.Mutations[0].N)
	}
	out = append(out, `,"mutations":[`...)
	for i := range b.Mutations {
		if i > 0 {
			out = append(out, ',')
		}
		out = b.Mutations[i].appendJSON(out)
	}
	return append(out, `]}`...), nil
}

func (m *Mutation) appendJSON(b []byte) []byte {
	b = AppendString(append(b, '['), m.Op.String())
	b = AppendString(append(b, ','), m.Model)
	b = AppendString(append(b, ','), m.UID)
	b = appendInt(append(b, ','), int64(m.Stamp))
	switch {
	case len(m.Data) > 0:
		b = append(append(b, ','), m.Data...)
	case m.Unit != 0:
		b = append(b, ",null"...)
	}
	if m.Unit != 0 {
		b = appendInt(append(b, ','), m.Unit)
	}
	return append(b, ']')
}

// UnmarshalJSON reads a batch. Data is as it came, to be checked by the model's schema, and
// so are the model's name and the uid; a wrong op or stamp is left 0. Errors, of the batch as a
// whole: [CodeInvalidRequest].
func (b *Batch) UnmarshalJSON(raw []byte) error {
	p, err := ParseBatch(raw, 0)
	if err != nil {
		*b = Batch{}
		return err
	}
	*b = *p
	return nil
}

// ParseBatch is UnmarshalJSON for a batch of at most so many mutations, 0 for any number:
// a larger one is [CodeLimit], and is not read to its end.
func ParseBatch(raw []byte, most int) (*Batch, error) {
	b := &Batch{}
	first := int64(1)
	err := EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "client":
			b.Client, err = DecodeString(value)
		case "confirmed":
			b.Confirmed, err = parseInteger(value)
		case "first":
			first, err = parseInteger(value)
		case "mutations":
			err = EachElement(value, func(_ int, v []byte) error {
				if most > 0 && len(b.Mutations) == most {
					return NewError(CodeLimit, "a batch has at most %d mutations", most)
				}
				m, err := parseMutation(v)
				b.Mutations = append(b.Mutations, m)
				return err
			})
		}
		return err
	})
	if err == nil && (first < 1 || first > 1<<53) {
		err = NewError(CodeInvalidRequest, "mutations are numbered from 1")
	}
	if CodeOf(err) == CodeLimit {
		return nil, err
	}
	if err != nil {
		return nil, NewError(CodeInvalidRequest, "the batch is malformed: %s", messageOf(err))
	}
	for i := range b.Mutations {
		b.Mutations[i].N = first + int64(i)
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	return b, nil
}

func parseMutation(raw []byte) (m Mutation, err error) {
	n := 0
	err = EachElement(raw, func(i int, v []byte) (err error) {
		n++
		switch i {
		case 0:
			m.Op = parseOp(v)
		case 1:
			m.Model, err = DecodeString(v)
		case 2:
			m.UID, err = DecodeString(v)
		case 3:
			if at, e := parseInteger(v); e == nil && at >= minInstant && at != 0 {
				m.Stamp = stampOfInstant(min(at, maxInstant)) // which the server clamps
			}
		case 4:
			if string(v) != "null" {
				m.Data = Row(v)
			}
		case 5:
			m.Unit, err = parseInteger(v)
		}
		return err
	})
	if err == nil && n < 4 {
		err = NewError(CodeInvalidRequest, "a mutation has four to six elements")
	}
	return m, err
}

// parseOp returns the op that a client may send under that name, 0 for none.
func parseOp(raw []byte) Op {
	for op := Create; op <= Delete; op++ {
		if isText(raw, opNames[op]) {
			return op
		}
	}
	return 0
}

// PushAnswer is the answer to a batch: a verdict for each mutation.
type PushAnswer struct {
	Now      Stamp // the server's time
	Verdicts []Verdict
}

// MarshalJSON gives the answer as it travels.
func (a *PushAnswer) MarshalJSON() ([]byte, error) {
	size := 100
	for i := range a.Verdicts {
		size += len(a.Verdicts[i].Row) + 64
	}
	b := a.Now.AppendJSON(append(make([]byte, 0, size), `{"now":`...))
	if len(a.Verdicts) > 0 {
		b = appendInt(append(b, `,"first":`...), a.Verdicts[0].N)
	}
	b = append(b, `,"verdicts":[`...)
	for i := range a.Verdicts {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.Verdicts[i].appendJSON(b)
	}
	return append(b, `]}`...), nil
}

func (v *Verdict) appendJSON(b []byte) []byte {
	switch {
	case v.Err != nil:
		b = append(b, `["rejected"`...)
	case v.Applied:
		b = append(b, `["applied"`...)
	default:
		b = append(b, `["superseded"`...)
	}
	if len(v.Row) == 0 {
		b = append(b, ",null,"...)
	} else {
		b = append(append(append(b, ','), v.Row...), ',')
	}
	b = v.Meta.appendStamps(b)
	if v.Err != nil {
		b = v.Err.appendJSON(append(b, ','))
	}
	return append(b, ']')
}

// appendStamps appends the stamps as an array of microseconds, null for no metadata.
func (m Meta) appendStamps(b []byte) []byte {
	if m.T() == 0 {
		return append(b, "null"...)
	}
	b = appendInt(append(b, '['), int64(m.CreatedAt))
	if m.UpdatedAt != 0 || m.DeletedAt != 0 {
		b = appendInt(append(b, ','), int64(m.UpdatedAt))
	}
	if m.DeletedAt != 0 {
		b = appendInt(append(b, ','), int64(m.DeletedAt))
	}
	return append(b, ']')
}

func parseStamps(uid string, raw []byte) (m Meta, err error) {
	if string(raw) == "null" {
		return m, nil
	}
	m.UID = uid
	stamps := [...]*Stamp{&m.CreatedAt, &m.UpdatedAt, &m.DeletedAt}
	err = EachElement(raw, func(i int, v []byte) error {
		n, err := parseInteger(v)
		if err != nil || n < 0 || i >= len(stamps) {
			return NewError(CodeInvalidData, "stamps are up to three numbers of microseconds")
		}
		*stamps[i] = Stamp(n)
		return nil
	})
	return m, err
}

// UnmarshalJSON reads an answer. The uids of metadata are those of the rows, "" where there is none:
// the reader knows which mutation a verdict is about. Anything malformed refuses the whole.
func (a *PushAnswer) UnmarshalJSON(raw []byte) error {
	*a = PushAnswer{}
	first := int64(1)
	err := EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "now":
			err = a.Now.UnmarshalJSON(value)
		case "first":
			first, err = parseInteger(value)
		case "verdicts":
			err = EachElement(value, func(_ int, v []byte) error {
				verdict, err := parseVerdict(v)
				a.Verdicts = append(a.Verdicts, verdict)
				return err
			})
		}
		return err
	})
	for i := range a.Verdicts {
		a.Verdicts[i].N = first + int64(i)
	}
	return err
}

func parseVerdict(raw []byte) (v Verdict, err error) {
	rejected, n := false, 0
	err = EachElement(raw, func(i int, value []byte) (err error) {
		n++
		switch i {
		case 0:
			v.Applied, rejected = isText(value, "applied"), isText(value, "rejected")
			if !v.Applied && !rejected && !isText(value, "superseded") {
				err = NewError(CodeInvalidData, "an unknown verdict")
			}
		case 1:
			err = v.Row.UnmarshalJSON(value)
		case 2:
			v.Meta, err = parseStamps(v.Row.UID(), value)
		case 3:
			v.Err = parseWireError(value)
		}
		return err
	})
	if err == nil && (n < 3 || rejected != (v.Err != nil)) {
		err = NewError(CodeInvalidData, "a verdict is incomplete")
	}
	return v, err
}
