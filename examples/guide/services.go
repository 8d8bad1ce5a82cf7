package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// addServices adds what interoperability tests call.
func addServices(srv *server.Server) error {
	_, err1 := srv.Handle("greet", server.Methods{"hello": hello})
	_, err2 := srv.Handle("broken", server.Methods{"explode": explode, "coded": coded})
	util, err3 := srv.Handle("util", server.Methods{
		"echo": echo, "nothing": nothing, "hooked": hooked, "join": join, "leave": leave, "notify": notify,
	})
	board, err4 := srv.Handle("board", server.Methods{"say": say})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	util.Before(double, "hooked")
	util.After(markAfter, "hooked")
	board.Publish(toItsChannel)
	return nil
}

func hello(_ context.Context, c *server.Call) (any, error) {
	var name string
	if err := c.Arg(0, &name); err != nil {
		return nil, err
	}
	return "Hello, " + name + "!", nil
}

func explode(context.Context, *server.Call) (any, error) {
	return nil, errors.New("something went wrong")
}

func coded(context.Context, *server.Call) (any, error) {
	return nil, tidemark.NewError("my-code", "coded error")
}

func echo(_ context.Context, c *server.Call) (any, error) {
	c.ResultAttachments = c.Attachments // binary arguments come back too
	return append([]json.RawMessage{}, c.Args...), nil
}

func nothing(context.Context, *server.Call) (any, error) { return nil, nil }

// hooked answers what it was given; the hooks around it double the number and mark the answer.
func hooked(_ context.Context, c *server.Call) (any, error) {
	var n float64
	if err := c.Arg(0, &n); err != nil {
		return nil, err
	}
	return map[string]any{"value": n}, nil
}

func double(_ context.Context, c *server.Call) error {
	var n float64
	if err := c.Arg(0, &n); err != nil {
		return err
	}
	c.Args = []json.RawMessage{json.RawMessage(fmt.Sprint(2 * n))}
	return nil
}

func markAfter(_ context.Context, c *server.Call) error {
	c.Result.(map[string]any)["after"] = true
	return nil
}

func join(_ context.Context, c *server.Call) (any, error) {
	return withChannel(c, func(channel string) { c.Session.Join(channel) })
}

func leave(_ context.Context, c *server.Call) (any, error) {
	return withChannel(c, func(channel string) { c.Session.Leave(channel) })
}

func withChannel(c *server.Call, do func(channel string)) (any, error) {
	var channel string
	if err := c.Arg(0, &channel); err != nil {
		return nil, err
	}
	if c.Session == nil {
		return nil, tidemark.NewError("no-session", "only a client can join or leave")
	}
	do(channel)
	return true, nil
}

func notify(_ context.Context, c *server.Call) (any, error) {
	var channel, kind string
	var value json.RawMessage
	if err := errors.Join(c.Arg(0, &channel), c.Arg(1, &kind), c.Arg(2, &value)); err != nil {
		return nil, err
	}
	return true, c.Server.Notify(channel, kind, value)
}

type message struct {
	Channel string          `json:"channel"`
	Message json.RawMessage `json:"message"`
}

func say(_ context.Context, c *server.Call) (any, error) {
	var m message
	if err := errors.Join(c.Arg(0, &m.Channel), c.Arg(1, &m.Message)); err != nil {
		return nil, err
	}
	return m, nil
}

func toItsChannel(_ context.Context, c *server.Call) ([]string, error) {
	return []string{c.Result.(message).Channel}, nil
}
