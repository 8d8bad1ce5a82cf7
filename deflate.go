package tidemark

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"io"
	"sync"
)

// maxInflated bounds a page that arrives deflated, in bytes: what a hostile server says of its
// size is not believed beyond that.
const maxInflated = 64 << 20

// A DeflatedPage is a page of a scope in the DEFLATE format (RFC 1951), for a client that asked
// for it (see [PullRequest]). It travels as
//
//	{"deflated":{"_placeholder":true,"num":0},"size":123456}
//
// where the placeholder stands for Data, which is the message's attachment.
type DeflatedPage struct {
	Data []byte // the page's JSON, deflated
	Size int    // of that JSON, in bytes
}

// level is where a page of rows becomes little shorter for much more time.
const level = 5

var deflaters = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(io.Discard, level) // one that exists
	return w
}}

// Deflate deflates the JSON text of a page. It may be called concurrently.
func Deflate(page []byte) DeflatedPage {
	var b bytes.Buffer
	b.Grow(len(page)/2 + 64)
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&b)
	_, _ = w.Write(page) // a bytes.Buffer takes everything
	_ = w.Close()
	return DeflatedPage{Data: b.Bytes(), Size: len(page)}
}

// AppendJSON appends the object to b, with placeholder in the place of Data.
func (d DeflatedPage) AppendJSON(b []byte, placeholder json.RawMessage) []byte {
	b = append(append(b, `{"deflated":`...), placeholder...)
	return append(appendInt(append(b, `,"size":`...), int64(d.Size)), '}')
}

// Inflate returns the JSON text of the page. A size that is not that of the text, or above
// 64 MiB, is [CodeInvalidData], as is anything that is not deflated.
func (d DeflatedPage) Inflate() ([]byte, error) {
	bad := NewError(CodeInvalidData, "the deflated page is malformed")
	if d.Size < 0 || d.Size > maxInflated {
		return nil, bad
	}
	var page bytes.Buffer
	page.Grow(min(d.Size, 8*len(d.Data)) + bytes.MinRead)
	n, err := io.Copy(&page, io.LimitReader(flate.NewReader(bytes.NewReader(d.Data)), int64(d.Size)+1))
	if err != nil || n != int64(d.Size) {
		return nil, bad
	}
	return page.Bytes(), nil
}

// ParsePage reads a page as it arrives, deflated or not, with the attachments of its message.
func ParsePage(raw []byte, attachments [][]byte) (*ScopePage, error) {
	page := &ScopePage{}
	if len(attachments) == 0 {
		return page, page.UnmarshalJSON(raw)
	}
	var d DeflatedPage
	deflated := false
	err := EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "deflated":
			num, ok := ParsePlaceholder(value)
			if !ok || num < 0 || num >= len(attachments) {
				return NewError(CodeInvalidData, "the deflated page is missing")
			}
			deflated, d.Data = true, attachments[num]
		case "size":
			var size int64
			size, err = parseInteger(value)
			d.Size = int(min(size, maxInflated+1))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if deflated {
		if raw, err = d.Inflate(); err != nil {
			return nil, err
		}
	}
	return page, page.UnmarshalJSON(raw)
}
