package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

type Post struct {
	UID   string `json:"uid"`
	Title string `json:"title" tidemark:"index"`
	Likes int    `json:"likes"`
}

// exampleServer is a server in the same process; a real program dials one with
// package socketio.
func exampleServer() *pipe.Pipe {
	schema, err := tidemark.NewSchema("post", []tidemark.Field{{Name: "title", Kind: tidemark.Text}, {Name: "likes", Kind: tidemark.Integer}})
	if err != nil {
		log.Fatal(err)
	}
	srv, err := server.New(drivermemory.New(schema), nil)
	if err != nil {
		log.Fatal(err)
	}
	srv.Service("post").Before(func(_ context.Context, c *server.Call) error {
		var data Post
		if err := c.Arg(1, &data); err == nil && data.Title == "" {
			return tidemark.NewError("untitled", "a post needs a title")
		}
		return nil
	}, tidemark.MethodCreate)
	return pipe.New(srv, nil)
}

func Example() {
	ctx := context.Background()
	c, err := client.Open(ctx, memory.New(), exampleServer(), &client.Options{Offline: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	posts, err := client.NewModel[Post](ctx, c, "post", nil)
	if err != nil {
		log.Fatal(err)
	}

	post, err := posts.Create(ctx, Post{Title: "Hello"}) // durable on the device, no network needed
	if err != nil {
		log.Fatal(err)
	}
	post, err = posts.Update(ctx, post.UID, client.Patch{"likes": 1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(post.Title, post.Likes, c.Status().State, c.Status().Pending)

	c.GoOnline()
	if err := c.Sync(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Status().Pending)
	// Output:
	// Hello 1 offline 2
	// 0
}

func ExampleModel_Watch() {
	ctx := context.Background()
	c, err := client.Open(ctx, memory.New(), nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	posts, err := client.NewModel[Post](ctx, c, "post", nil)
	if err != nil {
		log.Fatal(err)
	}
	for list, err := range posts.Watch(ctx, tidemark.Where{"title": "Hello"}, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(list), "posts")
		if len(list) == 1 {
			break
		}
		if _, err := posts.Create(ctx, Post{Title: "Hello"}); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 0 posts
	// 1 posts
}

func ExampleClient_Rejections() {
	ctx := context.Background()
	c, err := client.Open(ctx, memory.New(), exampleServer(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	posts, err := client.NewModel[Post](ctx, c, "post", nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := posts.Create(ctx, Post{}); err != nil {
		log.Fatal(err)
	}
	if err := c.Sync(ctx); err != nil {
		log.Fatal(err)
	}
	rejections, err := c.Rejections(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range rejections {
		fmt.Println(r.Kind, r.Code, r.Message)
		if err := c.Discard(ctx, r.ID); err != nil {
			log.Fatal(err)
		}
	}
	// Output: rejected untitled a post needs a title
}

// examplePosts is a model on a device without a network.
func examplePosts(ctx context.Context) (*client.Client, *client.Model[Post]) {
	c, err := client.Open(ctx, memory.New(), nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	posts, err := client.NewModel[Post](ctx, c, "post", nil)
	if err != nil {
		log.Fatal(err)
	}
	return c, posts
}

func ExampleModel_Create() {
	ctx := context.Background()
	c, posts := examplePosts(ctx)
	defer c.Close()
	post, err := posts.Create(ctx, Post{Title: "Hello"})
	fmt.Println(post.Title, len(post.UID), err) // the uid is a UUID of version 7

	_, err = posts.Create(ctx, Post{UID: post.UID, Title: "Again"})
	fmt.Println(err)
	// Output:
	// Hello 36 <nil>
	// uid-taken: there is a row of that uid
}

func ExampleModel_Update() {
	ctx := context.Background()
	c, posts := examplePosts(ctx)
	defer c.Close()
	if _, err := posts.Create(ctx, Post{UID: "1", Title: "Hello", Likes: 1}); err != nil {
		log.Fatal(err)
	}
	post, err := posts.Update(ctx, "1", client.Patch{"likes": 2}) // other columns stay
	fmt.Println(post.Title, post.Likes, err)

	_, err = posts.Update(ctx, "1", client.Patch{"colour": "red"})
	fmt.Println(tidemark.CodeOf(err))
	_, err = posts.Update(ctx, "2", client.Patch{"likes": 2})
	fmt.Println(err)
	// Output:
	// Hello 2 <nil>
	// unknown-field
	// tidemark: not found
}

func ExampleModel_Remove() {
	ctx := context.Background()
	c, posts := examplePosts(ctx)
	defer c.Close()
	if _, err := posts.Create(ctx, Post{UID: "1", Title: "Hello"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(posts.Remove(ctx, "1"))
	_, err := posts.FindByUID(ctx, "1")
	fmt.Println(err)
	// Output:
	// <nil>
	// tidemark: not found
}

func ExampleModel_FindWhere() {
	ctx := context.Background()
	c, posts := examplePosts(ctx)
	defer c.Close()
	for i, title := range []string{"Hello", "Hello", "Goodbye"} {
		if _, err := posts.Create(ctx, Post{UID: fmt.Sprint(i), Title: title, Likes: i}); err != nil {
			log.Fatal(err)
		}
	}
	for _, where := range []tidemark.Where{nil, {"title": "Hello"}, {"likes": tidemark.Range{GTE: 1}}, {"title": "Hello", "likes": tidemark.Range{GTE: 1, LT: 10}}} {
		found, err := posts.FindWhere(ctx, where)
		if err != nil {
			log.Fatal(err)
		}
		var uids []string
		for _, p := range found {
			uids = append(uids, p.UID)
		}
		fmt.Println(uids)
	}
	// Output:
	// [0 1 2]
	// [0 1]
	// [1 2]
	// [1]
}

func ExampleClient_Tx() {
	ctx := context.Background()
	c, err := client.Open(ctx, memory.New(), exampleServer(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	posts, err := client.NewModel[Post](ctx, c, "post", nil)
	if err != nil {
		log.Fatal(err)
	}
	write := func(titles ...string) error {
		return c.Tx(ctx, func(tx *client.Tx) error {
			for _, title := range titles {
				if _, err := posts.CreateTx(tx, Post{UID: "uid of " + title, Title: title}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := write("Part 1", "Part 2"); err != nil {
		log.Fatal(err)
	}
	if err := write("Part 3", ""); err != nil { // which the server refuses
		log.Fatal(err)
	}
	if err := c.Sync(ctx); err != nil {
		log.Fatal(err)
	}
	rows, err := posts.FindWhere(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range rows {
		fmt.Println(p.Title)
	}
	rejections, err := c.Rejections(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range rejections {
		fmt.Printf("%q: %s\n", r.Mutation.UID, r.Code)
	}
	// Output:
	// Part 1
	// Part 2
	// "uid of Part 3": unit
	// "uid of ": untitled
}
