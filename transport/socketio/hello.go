package socketio

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// opening is the first packet of an Engine.IO session, from the server.
type opening struct {
	SID          string   `json:"sid"`
	Upgrades     []string `json:"upgrades"`
	PingInterval int64    `json:"pingInterval"` // milliseconds
	PingTimeout  int64    `json:"pingTimeout"`  // milliseconds
	MaxPayload   int64    `json:"maxPayload"`   // bytes
}

func (o opening) encode() []byte {
	o.Upgrades = []string{}
	raw, _ := json.Marshal(o) // strings and numbers cannot fail
	return append([]byte{engineOpen}, raw...)
}

// parseOpening reads what a server announces, within sense: silence is measured by it.
func parseOpening(frame []byte) (opening, error) {
	var o opening
	if len(frame) == 0 || frame[0] != engineOpen || json.Unmarshal(frame[1:], &o) != nil {
		return o, errMalformed
	}
	const day = int64(24 * time.Hour / time.Millisecond)
	if o.PingInterval <= 0 || o.PingInterval > day || o.PingTimeout <= 0 || o.PingTimeout > day {
		return o, errMalformed
	}
	return o, nil
}

func (o opening) silence() time.Duration {
	return time.Duration(o.PingInterval+o.PingTimeout) * time.Millisecond
}

// helloLimits bounds the payload of CONNECT.
var helloLimits = tidemark.JSONLimits{Depth: 16, Values: 10_000}

// parseHello reads the payload of CONNECT: the application's members, and among
// them pid and offset, which are the protocol's.
func parseHello(payload []byte) (tidemark.Hello, error) {
	var h tidemark.Hello
	if len(payload) == 0 {
		return h, nil
	}
	if err := tidemark.CheckJSON(payload, helloLimits); err != nil {
		return h, err
	}
	auth := []byte{'{'}
	err := tidemark.EachMember(payload, func(key string, value []byte) error {
		switch key {
		case "pid":
			h.Session = textOr(value, "")
			return nil
		case "offset":
			h.Offset = textOr(value, "")
			return nil
		}
		auth = append(tidemark.AppendString(auth, key), ':')
		auth = append(append(auth, value...), ',')
		return nil
	})
	if err != nil {
		return h, err
	}
	if n := len(auth); n > 1 {
		auth[n-1] = '}'
		h.Auth = auth
	} else if h.Session == "" {
		h.Auth = json.RawMessage("{}")
	}
	return h, nil
}

// encodeHello is the client's CONNECT.
func encodeHello(h tidemark.Hello) ([]byte, error) {
	b := []byte("40")
	auth := bytes.TrimSpace(h.Auth)
	if len(auth) > 0 {
		if err := tidemark.EachMember(auth, func(string, []byte) error { return nil }); err != nil {
			return nil, tidemark.NewError(tidemark.CodeInvalidData, "Hello.Auth is not a JSON object")
		}
	}
	if h.Session == "" {
		return append(b, auth...), nil
	}
	b = tidemark.AppendString(append(b, `{"pid":`...), h.Session)
	b = tidemark.AppendString(append(b, `,"offset":`...), h.Offset)
	if rest := bytes.TrimSpace(bytes.TrimPrefix(auth, []byte{'{'})); len(rest) > 1 {
		return append(append(b, ','), rest...), nil
	}
	return append(b, '}'), nil
}

// parseConnected reads the server's answer to CONNECT.
func parseConnected(payload []byte) (tidemark.Welcome, error) {
	var w tidemark.Welcome
	err := tidemark.EachMember(payload, func(key string, value []byte) (err error) {
		switch key {
		case "sid":
			w.ID, err = tidemark.DecodeString(value)
		case "pid":
			w.Session, err = tidemark.DecodeString(value)
		}
		return err
	})
	if err != nil || w.ID == "" {
		return tidemark.Welcome{}, errMalformed
	}
	return w, nil
}

// parseRefused reads a refusal of CONNECT. What is missing stays empty: it is a refusal all the same.
func parseRefused(payload []byte) *tidemark.Error {
	e := &tidemark.Error{Code: tidemark.CodeUnknown}
	_ = tidemark.EachMember(payload, func(key string, value []byte) error {
		switch key {
		case "message":
			e.Message = textOr(value, "")
		case "data":
			_ = tidemark.EachMember(value, func(key string, value []byte) error {
				if key == "code" {
					e.Code = tidemark.Code(textOr(value, string(tidemark.CodeUnknown)))
				}
				return nil
			})
		}
		return nil
	})
	return e
}

func textOr(value []byte, otherwise string) string {
	s, err := tidemark.DecodeString(value)
	if err != nil {
		return otherwise
	}
	return s
}
