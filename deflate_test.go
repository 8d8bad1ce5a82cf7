package tidemark_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

func somePage(rows int) *tidemark.ScopePage {
	page := &tidemark.ScopePage{Cursor: "c", After: "z"}
	for i := range rows {
		uid := fmt.Sprintf("row-%06d", i)
		page.Rows = append(page.Rows, tidemark.RowMeta{Row: tidemark.Row(fmt.Sprintf(`{"uid":%q,"title":"title of %d"}`, uid, i)), Meta: tidemark.Meta{UID: uid, CreatedAt: tidemark.Stamp(i + 1)}})
	}
	return page
}

// A page is the same, deflated or not.
func TestDeflatedPage(t *testing.T) {
	t.Parallel()
	want := somePage(1000)
	raw := want.AppendJSON(nil)
	d := tidemark.Deflate(raw)
	if len(d.Data) > len(raw)/3 {
		t.Errorf("%d bytes of %d", len(d.Data), len(raw))
	}
	for name, got := range map[string]func() (*tidemark.ScopePage, error){
		"deflated": func() (*tidemark.ScopePage, error) {
			return tidemark.ParsePage(d.AppendJSON(nil, tidemark.Placeholder(0)), [][]byte{d.Data})
		},
		"plain": func() (*tidemark.ScopePage, error) { return tidemark.ParsePage(raw, nil) },
	} {
		page, err := got()
		if err != nil || !reflect.DeepEqual(page, want) {
			t.Errorf("%s: %v, or another page", name, err)
		}
	}
}

// What lies about its size, has none, or grows beyond bounds is refused, and not inflated further
// than it said.
func TestMalformedDeflatedPage(t *testing.T) {
	t.Parallel()
	raw := somePage(10).AppendJSON(nil)
	d := tidemark.Deflate(raw)
	bomb := tidemark.Deflate(bytes.Repeat([]byte(" "), 70<<20))
	said := func(size any) []byte {
		return fmt.Appendf(nil, `{"deflated":%s,"size":%v}`, tidemark.Placeholder(0), size)
	}
	for name, c := range map[string]struct {
		raw  []byte
		data []byte
	}{
		"too small":      {said(len(raw) - 1), d.Data},
		"too large":      {said(len(raw) + 1), d.Data},
		"negative":       {said(-1), d.Data},
		"no number":      {said(`"x"`), d.Data},
		"immense":        {said("9007199254740991"), d.Data},
		"no size":        {[]byte(`{"deflated":{"_placeholder":true,"num":0}}`), d.Data},
		"no attachment":  {[]byte(`{"deflated":{"_placeholder":true,"num":1},"size":10}`), d.Data},
		"no placeholder": {[]byte(`{"deflated":"x","size":1}`), d.Data},
		"cut":            {said(len(raw)), d.Data[:len(d.Data)/2]},
		"not deflated":   {said(len(raw)), raw},
		"bomb":           {said(70 << 20), bomb.Data},
		"hidden bomb":    {said(100), bomb.Data},
		"no page":        {said(2), tidemark.Deflate([]byte(`[]`)).Data},
	} {
		if page, err := tidemark.ParsePage(c.raw, [][]byte{c.data}); err == nil {
			t.Errorf("%s: taken as %+v", name, page)
		}
	}
}

func FuzzParsePage(f *testing.F) {
	raw := somePage(3).AppendJSON(nil)
	d := tidemark.Deflate(raw)
	f.Add(raw, []byte{})
	f.Add(d.AppendJSON(nil, tidemark.Placeholder(0)), d.Data)
	f.Fuzz(func(t *testing.T, raw, data []byte) {
		page, err := tidemark.ParsePage(raw, [][]byte{data})
		if err == nil && !json.Valid(page.AppendJSON(nil)) {
			t.Errorf("taken as %+v", page)
		}
	})
}
