package socketio

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// benchRequest is a write as clients send it; its row is that of docs/performance.md.
var benchRequest = []byte(`20["client-request",{"name":"item","action":"createWithMeta","args":["01890a5d-ac96-774b-bcce-b302099a8057",{"title":"Twenty characters ..","content":"` +
	strings.Repeat("0123456789", 20) + `","list_id":"list-000042"},"2026-01-01T00:00:00.123Z"]}]`)

func BenchmarkDecode(b *testing.B) {
	for _, strict := range []bool{false, true} {
		b.Run(fmt.Sprintf("strict=%v", strict), func(b *testing.B) {
			d := decoder{strict: strict, maxBytes: 1 << 20}
			b.SetBytes(int64(len(benchRequest)))
			b.ReportAllocs()
			for b.Loop() {
				p, err := parsePacket(benchRequest)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := d.message(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	event := json.RawMessage(benchRequest[19 : len(benchRequest)-1])
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		m := &tidemark.Message{Event: tidemark.EventService, Args: []json.RawMessage{event}}
		if len(m.Frame(encode)) < len(event) {
			b.Fatal("too short")
		}
	}
}
