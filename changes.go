package tidemark

// Changes is the argument of EventChanges: what a session is told of one commit, or of
// a part of it that belongs together.
//
//	{"changes":[
//	  {"model":"post","row":{...},"meta":[created_at,updated_at],"in":[7],"out":[9]},
//	  {"model":"post","uid":"...","at":1767225600000000,"deleted":true,"out":[7]}]}
type Changes []Change

// Change is one row that changed, as a session's scopes see it.
type Change struct {
	// Model is the name of the row's model.
	Model string
	// Row and Meta are the row as it is now, when a scope of the session selects it.
	Row  Row
	Meta Meta
	// Gone is set, and Row is nil, when none does.
	Gone Departure
	// In are the session's scopes that select the row now, Out those that did and no longer do.
	In, Out []int64
}

// AppendBody appends the JSON object of the change, as far as it is the same for all
// sessions and without its closing brace: [AppendScopes] appends the rest.
func (c *Change) AppendBody(b []byte) []byte {
	b = AppendString(append(b, `{"model":`...), c.Model)
	if len(c.Row) > 0 {
		b = append(append(b, `,"row":`...), c.Row...)
		return c.Meta.appendStamps(append(b, `,"meta":`...))
	}
	b = AppendString(append(b, `,"uid":`...), c.Gone.UID)
	b = appendInt(append(b, `,"at":`...), int64(c.Gone.At))
	if c.Gone.Deleted {
		b = append(b, `,"deleted":true`...)
	}
	return b
}

// AppendScopes appends to what [Change.AppendBody] appended the rest of the object: the
// numbers of the session's scopes, in and out as in [Change], and the closing brace.
func AppendScopes(b []byte, in, out []int64) []byte {
	if len(in) > 0 {
		b = appendInts(append(b, `,"in":`...), in)
	}
	if len(out) > 0 {
		b = appendInts(append(b, `,"out":`...), out)
	}
	return append(b, '}')
}

func appendInts(b []byte, list []int64) []byte {
	b = append(b, '[')
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendInt(b, n)
	}
	return append(b, ']')
}

// MarshalJSON gives the object.
func (cs Changes) MarshalJSON() ([]byte, error) {
	b := []byte(`{"changes":[`)
	for i := range cs {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendScopes(cs[i].AppendBody(b), cs[i].In, cs[i].Out)
	}
	return append(b, `]}`...), nil
}

// UnmarshalJSON reads the object. Anything malformed refuses the whole.
func (cs *Changes) UnmarshalJSON(raw []byte) error {
	*cs = nil
	return EachMember(raw, func(key string, value []byte) error {
		if key != "changes" {
			return nil
		}
		return EachElement(value, func(_ int, v []byte) error {
			c, err := parseChange(v)
			*cs = append(*cs, c)
			return err
		})
	})
}

func parseChange(raw []byte) (c Change, err error) {
	var stamps []byte
	err = EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "model":
			c.Model, err = DecodeString(value)
		case "row":
			err = c.Row.UnmarshalJSON(value)
		case "meta":
			stamps = value
		case "uid":
			c.Gone.UID, err = DecodeString(value)
		case "at":
			var at int64
			at, err = parseInteger(value)
			c.Gone.At = Stamp(max(at, 0))
		case "deleted":
			c.Gone.Deleted = string(value) == "true"
		case "in":
			c.In, err = parseInts(value)
		case "out":
			c.Out, err = parseInts(value)
		}
		return err
	})
	if err == nil && stamps != nil {
		c.Meta, err = parseStamps(c.Row.UID(), stamps)
	}
	if err == nil && c.Model == "" || len(c.Row) > 0 && (c.Meta.UID == "" || c.Meta.T() == 0) || len(c.Row) == 0 && c.Gone.UID == "" {
		err = NewError(CodeInvalidData, "a change is incomplete")
	}
	return c, err
}

func parseInts(raw []byte) (list []int64, err error) {
	err = EachElement(raw, func(_ int, v []byte) error {
		n, err := parseInteger(v)
		list = append(list, n)
		return err
	})
	return list, err
}
