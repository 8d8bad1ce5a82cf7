// Command customstore is a client of the guide's server whose store is not one
// of ours: package logstore beside it, which keeps everything in a log file.
//
//	go run ./examples/guide                       # the server, in another terminal
//	go run ./examples/customstore -log posts.log  # a line you type is a new post
//
// Stop either and start it again: nothing is lost. The lines "offline" and
// "online" do what they say.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/examples/customstore/logstore"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// post is the guide's model.
type post struct {
	UID     string  `json:"uid"`
	Title   string  `json:"title"`
	Content *string `json:"content"`
}

func main() {
	url := flag.String("url", "http://127.0.0.1:8000", "`address` of the server")
	path := flag.String("log", "posts.log", "the store's `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *url, *path, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "customstore:", err)
		os.Exit(1)
	}
}

// run shows the posts and takes new ones until ctx or in ends.
func run(ctx context.Context, url, path string, in io.Reader, out io.Writer) (err error) {
	store, err := logstore.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	c, err := client.Open(ctx, store, socketio.NewDialer(url, nil), nil)
	if err != nil {
		return err
	}
	defer c.Close()
	posts, err := client.NewModel[post](ctx, c, "post", nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	shown := make(chan error, 1)
	go func() { shown <- show(ctx, posts, out) }()
	defer func() { cancel(); err = errors.Join(err, <-shown) }()

	lines := make(chan string)
	go func() { // ends with the process, as reading a terminal does
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := obey(ctx, c, posts, line); err != nil {
				return err
			}
		}
	}
}

func obey(ctx context.Context, c *client.Client, posts *client.Model[post], line string) error {
	switch line {
	case "":
	case "offline":
		c.GoOffline()
	case "online":
		c.GoOnline()
	default:
		_, err := posts.Create(ctx, post{Title: line})
		return err
	}
	return nil
}

// show prints all posts whenever they change.
func show(ctx context.Context, posts *client.Model[post], out io.Writer) error {
	for list, err := range posts.Watch(ctx, nil, nil) {
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		fmt.Fprintf(out, "-- %d posts\n", len(list))
		for _, p := range list {
			fmt.Fprintln(out, p.Title)
		}
	}
	return nil
}
