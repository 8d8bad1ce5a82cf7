package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// fuzzedPosts is how many posts there are, enough for a page that is worth deflating.
const fuzzedPosts = 12

// scopedSeeds are requests of the second protocol, for a session that has opened it and one that has not.
// @cursor stands for where the log is and @forged for a place in it that it never had, which no seed can
// know; tag is that of all posts.
func scopedSeeds(tag string) (seeds []string) {
	another := tidemark.Cursor{Epoch: "another history", At: 1 << 60, Nonce: 1}.String()
	for action, args := range map[string][]string{
		"open": {
			`{"protocol":1,"client":"c","scopes":[{"model":"post","where":{}},{"model":"tag","where":{"name":"x"}}]}`,
			`{"protocol":1,"scopes":[{"model":"post","where":{},"cursor":"@cursor","tag":"` + tag + `"}]}`,
			`{"protocol":99,"client":"c","scopes":[{"model":"post","where":{},"cursor":"@forged","tag":"` + tag + `","after":"p1"}]}`,
			`{"protocol":1,"scopes":[{"model":"nope","where":{}},{"model":"post","where":{"nope":1}},{"model":"post"}]}`,
			`{"protocol":0,"client":"\u0000"}`, `{"protocol":1,"scopes":null}`, `{"protocol":"1"}`, `[]`, `null`,
		},
		"subscribe": {
			`[{"model":"post","where":{"title":{"in":["t1","t2"]}}},{"model":"tag","where":{}}]`,
			`[{"model":"post","where":{},"cursor":"@cursor","tag":"` + tag + `"}]`,
			`[{"model":"post","where":{},"cursor":"@cursor","tag":"` + tag + `","after":"p1"}]`,
			`[{"model":"post","where":{},"cursor":"` + another + `","tag":"` + tag + `"}]`,
			`[{"model":"post","where":{},"cursor":"@cursor","tag":"other"}]`,
			`[{"model":"post","where":{},"after":"` + strings.Repeat("p", 2000) + `"}]`,
			`[{"where":null,"model":null}]`, `{}`, `null`,
		},
		"unsubscribe": {`[1,2,-1]`, `["1"]`},
		"pull": {
			`{"scope":1}`, `{"scope":1,"deflate":true}`, `{"scope":1,"cursor":"@cursor","deflate":false}`,
			`{"scope":1,"after":"p3"}`, `{"scope":1,"cursor":"@forged"}`, `{"scope":1,"cursor":"` + another + `"}`, `{"scope":1,"cursor":"no"}`,
			`{"scope":7}`, `{"scope":-1}`, `{"scope":1e0}`, `{"scope":1,"deflate":"yes"}`, `[1]`,
		},
		"push": {
			`{"client":"c","first":1,"mutations":[["create","post","a",1767225600000000,{"title":"x"}],["update","post","p1",1767225600000001,{"title":"y"},3],["delete","post","p2",1767225600000002,null,3]]}`,
			`{"client":"c","confirmed":1,"first":1,"mutations":[["delete","tag","a",1]]}`,
			`{"client":"c","first":9,"mutations":[["create","post","a",1,{"title":"x"}]]}`,
			`{"client":"c","first":1,"mutations":[["drop","nope","",9e99,[],9],["create","post"]]}`,
			`{"client":"","mutations":[]}`, `{"first":-1}`, `null`,
		},
	} {
		for _, arg := range args {
			seeds = append(seeds, fmt.Sprintf(`{"name":"sync","action":%q,"args":[%s]}`, action, arg))
		}
	}
	slices.Sort(seeds)
	return seeds
}

// Whatever a client sends as a request, it gets one answer, which is JSON; and what
// the server then has, it can sync.
func FuzzRequest(f *testing.F) {
	all, err := tidemark.Where{}.Compile(schemas(f)[0])
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range append(scopedSeeds(all.Tag()),
		`{"name":"post","action":"createWithMeta","args":["a",{"title":"x","likes":1e3,"due":"2026-01-01"},"2026-01-01T00:00:00Z"]}`,
		`{"name":"post","action":"updateWithMeta","args":["a",{"title":null,"x":[{}]},1767225600000]}`,
		`{"name":"post","action":"deleteWithMeta","args":["a","Thu, 01 Jan 2026 00:00:00 GMT"]}`,
		`{"name":"post","action":"findMany","args":[{"likes":{"gte":"9007199254740993","lt":null}}]}`,
		`{"name":"post","action":"findUnique","args":[{"title":{}}]}`,
		`{"name":"sync","action":"go","args":["post",{"title":"x"},{"a":{"uid":"a","created_at":"2026-01-01","__dirty__":true},"b":{"uid":"b","deleted_at":1}}]}`,
		`{"name":"sync","action":"go","args":["post",{},{}]}`,
		`{"name":"sync","action":"push","args":[{"client":"c","mutations":[["create","post","a",1767225600000000,{"title":"x"}],["update","post","a",1767225600000001,{"likes":"9007199254740993"},3],["delete","tag","a",1,null,3]]}]}`,
		`null`, `{"name":"\u0000","action":"","args":[]}`,
	) {
		f.Add([]byte(s), []byte(nil), false)
		f.Add([]byte(s), []byte{0xed, 0}, true)
	}
	f.Add([]byte(`{"name":"sync","action":"push","args":[{"_placeholder":true,"num":0}]}`), []byte{1}, true)
	f.Add([]byte(`{"name":"sync","action":"pull","args":[{"scope":1,"deflate":true},{"_placeholder":true,"num":1}]}`), []byte{1}, true)
	f.Fuzz(func(t *testing.T, envelope, attachment []byte, opened bool) {
		db := memory.New(schemas(t)...)
		for i := range fuzzedPosts {
			uid := fmt.Sprint("p", i)
			db.Put("post", row(uid, fmt.Sprint("t", i), strings.Repeat("o", 100)), tidemark.Meta{UID: uid, CreatedAt: 1})
		}
		srv, err := server.New(db, &server.Options{IntegersAsText: true})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
		srv.Service("post").Publish(server.To("all"))
		client := &sink{sent: make(chan *tidemark.Message, 16)}
		srv.Offer(t.Context(), client)
		<-client.sent // connected
		at, err := db.Horizon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		forged := at
		forged.Nonce++
		envelope = bytes.ReplaceAll(envelope, []byte("@cursor"), []byte(at.String()))
		envelope = bytes.ReplaceAll(envelope, []byte("@forged"), []byte(forged.String()))
		n := uint64(0)
		ask := func(text []byte, attachments ...[]byte) tidemark.Answer {
			client.handler.Receive(&tidemark.Message{Kind: tidemark.CallMessage, ID: n, Event: tidemark.EventRequest, Args: []json.RawMessage{text}, Attachments: attachments})
			m := <-client.sent
			for m.Kind != tidemark.AnswerMessage {
				m = <-client.sent
			}
			if m.ID != n || !json.Valid(m.Args[0]) {
				t.Fatalf("answer %d: %s", m.ID, m.Args[0])
			}
			n++
			var a tidemark.Answer
			if err := a.UnmarshalJSON(m.Args[0]); err != nil || a.Err != nil && a.Err.Code == tidemark.CodeInternal {
				t.Fatalf("answer %s: %v", m.Args[0], err)
			}
			return a
		}
		must := func(text string) {
			if a := ask([]byte(text)); a.Err != nil {
				t.Fatalf("%s: %v", text, a.Err)
			}
		}
		if opened {
			must(`{"name":"sync","action":"open","args":[{"protocol":1,"client":"c","scopes":[{"model":"post","where":{}}]}]}`)
		}
		ask(envelope, attachment)
		ask(envelope)
		if opened {
			must(`{"name":"sync","action":"subscribe","args":[[{"model":"post","where":{}}]]}`)
		}
		must(`{"name":"sync","action":"go","args":["post",{},{}]}`)
	})
}
