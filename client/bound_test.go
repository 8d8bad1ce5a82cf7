package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// doc is a model with columns of JSON.
type doc struct {
	UID   string          `json:"uid"`
	Body  json.RawMessage `json:"body"`
	Other json.RawMessage `json:"other"`
}

func deepArray(n int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", n) + strings.Repeat("]", n))
}

func deepObject(n int) json.RawMessage {
	return json.RawMessage(strings.Repeat(`{"a":`, n-1) + "1" + strings.Repeat("}", n-1))
}

func ones(n int, comma string) json.RawMessage {
	return json.RawMessage("[1" + strings.Repeat(comma+"1", n-1) + "]")
}

// JSON that a device accepts reaches the server, in either protocol and by any write, and what could not is
// refused before it is stored.
func TestJSONUpToTheBoundReachesTheServer(t *testing.T) {
	schema, err := tidemark.NewSchema("doc", []tidemark.Field{{Name: "body", Kind: tidemark.JSON}, {Name: "other", Kind: tidemark.JSON}})
	if err != nil {
		t.Fatal(err)
	}
	most := 0 // elements of an array of ones that is the only column beside a null
	for n := 1000; 3+n <= tidemark.MaxJSONValues(len(`{"body":,"other":null}`)+2*n+1); n++ {
		most = n
	}
	within := []doc{
		{Body: deepArray(tidemark.MaxJSONDepth)},
		{Body: deepObject(tidemark.MaxJSONDepth), Other: deepObject(tidemark.MaxJSONDepth)},
		{Body: ones(most, ",")},
		{Other: ones(most, " ,\n ")},
	}
	beyond := []doc{
		{Body: deepArray(tidemark.MaxJSONDepth + 1)},
		{Body: deepObject(tidemark.MaxJSONDepth + 1)},
		{Body: ones(most+1, ",")},
		{Body: ones(most+1, "    ,   ")}, // white space does not travel
		{Body: ones(most-100, ","), Other: ones(1000, ",")},
	}
	for _, guide := range []bool{true, false} {
		t.Run(fmt.Sprint("guide ", guide), func(t *testing.T) {
			db := drivermemory.New(schema)
			var driver tidemark.Driver = db
			if guide {
				driver = guideDriver{db}
			}
			srv, err := server.New(driver, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			h := socketio.NewHandler(srv, nil)
			defer h.Close()
			web := httptest.NewServer(h)
			defer web.Close()
			store := memory.New()
			defer store.Close()
			c, err := client.Open(t.Context(), store, socketio.NewDialer(web.URL, nil), &client.Options{Offline: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			docs, err := client.NewModel[doc](t.Context(), c, "doc", nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, d := range within {
				d.UID = fmt.Sprint("created ", i)
				if _, err := docs.Create(t.Context(), d); err != nil {
					t.Fatalf("%d is refused: %v", i, err)
				}
				uid := fmt.Sprint("updated ", i)
				_, err := docs.Create(t.Context(), doc{UID: uid})
				if err == nil {
					_, err = docs.Update(t.Context(), uid, client.Patch{"body": d.Body, "other": d.Other})
				}
				if err != nil {
					t.Fatalf("%d is refused: %v", i, err)
				}
			}
			for i, d := range beyond {
				d.UID = fmt.Sprint("beyond ", i)
				_, err := docs.Create(t.Context(), d)
				wantCode(t, err, tidemark.CodeTooLarge)
				if e := err.(*tidemark.Error); e.Field != "body" {
					t.Errorf("%d: the field is %q", i, e.Field)
				}
				_, err = docs.Update(t.Context(), "created 0", client.Patch{"body": d.Body, "other": d.Other})
				wantCode(t, err, tidemark.CodeTooLarge)
			}
			c.GoOnline()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			if rs, err := c.Rejections(ctx); err != nil || len(rs) > 0 {
				t.Errorf("rejections %v, %v", rs, err)
			}
			all, err := tidemark.Where{}.Compile(schema)
			if err != nil {
				t.Fatal(err)
			}
			if rows, err := db.Find(ctx, all, 0); err != nil || len(rows) != 2*len(within) {
				t.Errorf("the server has %d rows, %v", len(rows), err)
			}
			// The server has the same rule for who does not keep to it, where its own code writes.
			_, err = srv.Service("doc").Call(ctx, tidemark.MethodCreate, "x", map[string]any{"body": beyond[0].Body}, tidemark.StampOf(time.Now()))
			wantCode(t, err, tidemark.CodeTooLarge)
		})
	}
}
