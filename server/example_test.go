package server_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

func newExample() *server.Server {
	note, err := tidemark.NewSchema("note", []tidemark.Field{{Name: "text", Kind: tidemark.Text, Required: true}})
	if err != nil {
		panic(err)
	}
	srv, err := server.New(memory.New(note), nil)
	if err != nil {
		panic(err)
	}
	return srv
}

// A model's service has its methods from the start; the application says who hears of its writes.
func ExampleService_Publish() {
	srv := newExample()
	defer srv.Close()
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("everybody")
		return nil
	})
	notes := srv.Service("note")
	notes.Publish(server.To("everybody"))

	ctx := context.Background()
	if _, err := notes.Call(ctx, tidemark.MethodCreate, "1", tidemark.Row(`{"text":"milk"}`), srv.Now()); err != nil {
		fmt.Println(err)
	}
	rows, err := notes.Call(ctx, tidemark.MethodFindMany, tidemark.Where{})
	fmt.Println(string(rows), err)
	// Output: [{"uid":"1","text":"milk"}] <nil>
}

// A hook refuses a call by an error, whose code reaches the client.
func ExampleService_Before() {
	srv := newExample()
	defer srv.Close()
	notes := srv.Service("note")
	notes.Before(func(_ context.Context, c *server.Call) error {
		var data struct{ Text string }
		if err := c.Arg(1, &data); err != nil {
			return err
		}
		if data.Text == "" {
			return tidemark.NewError("empty-note", "a note needs a text")
		}
		return nil
	}, tidemark.MethodCreate)

	_, err := notes.Call(context.Background(), tidemark.MethodCreate, "1", tidemark.Row(`{"text":""}`), srv.Now())
	fmt.Println(err)
	// Output: empty-note: a note needs a text
}

// A hook narrows what a client may read to its own rows, also in scopes. A member of a where must hold whatever else
// stands there: a client that asks for others' rows by alternatives gets none of them.
func ExampleService_Before_narrow() {
	note, err := tidemark.NewSchema("note", []tidemark.Field{{Name: "owner", Kind: tidemark.Text}})
	if err != nil {
		panic(err)
	}
	srv, err := server.New(memory.New(note), nil)
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	notes := srv.Service("note")
	owner := func(*server.Call) string { return "ann" } // whom the session has authenticated as
	notes.Before(func(_ context.Context, c *server.Call) error {
		var where tidemark.Row
		if err := c.Arg(0, &where); err != nil {
			return err
		}
		c.Args = []json.RawMessage{json.RawMessage(where.With("owner", tidemark.AppendString(nil, owner(c))))}
		return nil
	}, tidemark.MethodFindMany, tidemark.MethodFindUnique)

	ctx := context.Background()
	for uid, of := range map[string]string{"1": "ann", "2": "bob"} {
		if _, err := notes.Call(ctx, tidemark.MethodCreate, uid, map[string]any{"owner": of}, srv.Now()); err != nil {
			fmt.Println(err)
		}
	}
	rows, err := notes.Call(ctx, tidemark.MethodFindMany, tidemark.Where{"$or": []tidemark.Where{{"owner": "bob"}, {"owner": "ann"}}})
	fmt.Println(string(rows), err)
	// Output: [{"uid":"1","owner":"ann"}] <nil>
}

// A service of the application, with one method.
func ExampleServer_Handle() {
	srv := newExample()
	defer srv.Close()
	greet, err := srv.Handle("greet", server.Methods{
		"hello": func(_ context.Context, c *server.Call) (any, error) {
			var name string
			if err := c.Arg(0, &name); err != nil {
				return nil, err
			}
			return "Hello, " + name + "!", nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := greet.Call(context.Background(), "hello", "World")
	fmt.Println(string(answer), err)
	// Output: "Hello, World!" <nil>
}

// Server code writes in a transaction of the driver; clients hear of it after the
// commit, and of a rollback nothing. With bundriver, RunInTx's function gets bun's transaction too.
func ExampleService_Call_transaction() {
	note, err := tidemark.NewSchema("note", []tidemark.Field{{Name: "text", Kind: tidemark.Text, Required: true}})
	if err != nil {
		panic(err)
	}
	driver := memory.New(note)
	srv, err := server.New(driver, nil)
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	notes := srv.Service("note")

	err = driver.RunInTx(context.Background(), func(ctx context.Context) error {
		if _, err := notes.Call(ctx, tidemark.MethodCreate, "1", tidemark.Row(`{"text":"milk"}`), srv.Now()); err != nil {
			return err
		}
		_, err := notes.Call(ctx, tidemark.MethodCreate, "2", tidemark.Row(`{"text":null}`), srv.Now())
		return err
	})
	fmt.Println(err)
	fmt.Println(driver.Len("note"), "notes")
	// Output:
	// constraint: text is required
	// 0 notes
}
