package server_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// Whatever a client sends as a request, it gets one answer, which is JSON; and what
// the server then has, it can sync.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"name":"post","action":"createWithMeta","args":["a",{"title":"x","likes":1e3,"due":"2026-01-01"},"2026-01-01T00:00:00Z"]}`,
		`{"name":"post","action":"updateWithMeta","args":["a",{"title":null,"x":[{}]},1767225600000]}`,
		`{"name":"post","action":"deleteWithMeta","args":["a","Thu, 01 Jan 2026 00:00:00 GMT"]}`,
		`{"name":"post","action":"findMany","args":[{"likes":{"gte":"9007199254740993","lt":null}}]}`,
		`{"name":"post","action":"findUnique","args":[{"title":{}}]}`,
		`{"name":"sync","action":"go","args":["post",{"title":"x"},{"a":{"uid":"a","created_at":"2026-01-01","__dirty__":true},"b":{"uid":"b","deleted_at":1}}]}`,
		`{"name":"sync","action":"go","args":["post",{},{}]}`,
		`{"name":"sync","action":"push","args":[{"client":"c","mutations":[["create","post","a",1767225600000000,{"title":"x"}],["update","post","a",1767225600000001,{"likes":"9007199254740993"},3],["delete","tag","a",1,null,3]]}]}`,
		`null`, `{"name":"\u0000","action":"","args":[]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, envelope []byte) {
		srv, err := server.New(memory.New(schemas(t)...), &server.Options{IntegersAsText: true})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
		srv.Service("post").Publish(server.To("all"))
		client := &sink{sent: make(chan *tidemark.Message, 16)}
		srv.Offer(t.Context(), client)
		<-client.sent // connected
		for i, text := range [][]byte{envelope, envelope, []byte(`{"name":"sync","action":"go","args":["post",{},{}]}`)} {
			client.handler.Receive(&tidemark.Message{Kind: tidemark.CallMessage, ID: uint64(i), Event: tidemark.EventRequest, Args: []json.RawMessage{text}})
			m := <-client.sent
			for m.Kind != tidemark.AnswerMessage {
				m = <-client.sent
			}
			if m.ID != uint64(i) || !json.Valid(m.Args[0]) {
				t.Fatalf("answer %d: %s", m.ID, m.Args[0])
			}
			var a tidemark.Answer
			if err := a.UnmarshalJSON(m.Args[0]); err != nil || a.Err != nil && (a.Err.Code == tidemark.CodeInternal || i == 2) {
				t.Fatalf("answer %s: %v", m.Args[0], err)
			}
		}
	})
}
