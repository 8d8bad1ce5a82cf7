package hooks_test

import (
	"context"
	"fmt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/server/hooks"
)

// Passwords come in as text, are stored as hashes, and never leave the server.
func Example() {
	schema, err := tidemark.NewSchema("user", []tidemark.Field{{Name: "name", Kind: tidemark.Text}, {Name: "password", Kind: tidemark.Text}})
	if err != nil {
		fmt.Println(err)
		return
	}
	db := memory.New(schema)
	srv, err := server.New(db, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	user := srv.Service("user")
	user.Before(hooks.HashPassword("password", nil), tidemark.MethodCreate, tidemark.MethodUpdate)
	user.After(hooks.Protect("password"))

	ctx := context.Background()
	if _, err := user.Call(ctx, tidemark.MethodCreate, "1", map[string]any{"name": "Ann", "password": "hunter2"}, srv.Now()); err != nil {
		fmt.Println(err)
	}
	found, err := user.Call(ctx, tidemark.MethodFindUnique, tidemark.Where{"name": "Ann"})
	fmt.Println(string(found), err)
	fmt.Println(len(db.Get("user", "1").Row.Get("password")) > len("hunter2"))
	// Output:
	// {"uid":"1","name":"Ann"} <nil>
	// true
}
