package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// item is the model on a device.
type item struct {
	UID   string `json:"uid"`
	Owner string `json:"owner" tidemark:"index"`
	Note  string `json:"note"`
	Score int64  `json:"score"`
}

// report is what a client says of itself.
type report struct {
	Status   string
	Well     bool              // in step, with nothing pending
	Rows     map[string]string // by uid, the row's text
	Rejected []string          // tokens of writes that did not become the server's state
}

// node is a client's process: client <name> <file> <url>. It writes until it reads "rest", and answers
// "report". What was acknowledged goes to the file's companion .acks, a line each: uid and token.
type node struct {
	name  string
	items *client.Model[item]
	c     *client.Client
	store *sqlite.Store
	acks  *os.File
	n     int
}

func device(ctx context.Context, args []string) error {
	name, path, url := args[0], args[1], args[2]
	if err := sqlite.Create(path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite3", sqlite.DSN(path))
	if err != nil {
		return err
	}
	d := &node{name: name}
	if d.store, err = sqlite.Open(ctx, db, nil); err != nil {
		return err
	}
	if d.acks, err = os.OpenFile(path+".acks", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	d.c, err = client.Open(ctx, d.store, socketio.NewDialer(url, &socketio.DialOptions{HandshakeTimeout: 3 * time.Second}),
		&client.Options{MaxBackoff: 2 * time.Second, CallTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	if d.items, err = client.NewModel[item](ctx, d.c, "item", nil); err != nil {
		return err
	}
	if _, err := d.items.Register(ctx, nil); err != nil {
		return err
	}
	commands := make(chan string)
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	return d.run(ctx, commands)
}

func (d *node) run(ctx context.Context, commands <-chan string) error {
	pace := time.NewTicker(40 * time.Millisecond)
	defer pace.Stop()
	for resting := false; ; {
		select {
		case command, ok := <-commands:
			switch {
			case !ok:
				return d.c.Close()
			case command == "rest":
				resting = true
			case command == "report":
				r, err := d.report(ctx)
				if err != nil {
					return err
				}
				if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
					return err
				}
			}
		case <-pace.C:
			if !resting {
				if err := d.write(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// write makes one local write: mostly of a row of its own, which nobody else writes.
func (d *node) write(ctx context.Context) error {
	own, err := d.items.FindWhere(ctx, tidemark.Where{"owner": d.name})
	if err != nil {
		return err
	}
	d.n++
	token := fmt.Sprintf("%s-%d-%d", d.name, os.Getpid(), d.n)
	if len(own) < 5 || rand.IntN(20) == 0 {
		row, err := d.items.Create(ctx, item{Owner: d.name, Note: token})
		if err != nil {
			return err
		}
		return d.acknowledged(row.UID, token)
	}
	if rand.IntN(4) > 0 {
		uid := own[rand.IntN(len(own))].UID
		if _, err := d.items.Update(ctx, uid, client.Patch{"note": token}); err != nil {
			return err
		}
		return d.acknowledged(uid, token)
	}
	return d.writeShared(ctx, token)
}

// writeShared writes a row that everybody writes, or removes it.
func (d *node) writeShared(ctx context.Context, token string) error {
	uid := fmt.Sprintf("shared-%d", rand.IntN(8))
	_, err := d.items.FindByUID(ctx, uid)
	switch {
	case errors.Is(err, tidemark.ErrNotFound):
		_, err = d.items.Create(ctx, item{UID: uid, Owner: "all", Note: token})
	case err != nil:
	case rand.IntN(6) == 0:
		err = d.items.Remove(ctx, uid)
	default:
		_, err = d.items.Update(ctx, uid, client.Patch{"note": token, "score": rand.IntN(100)})
	}
	if errors.Is(err, tidemark.ErrNotFound) || tidemark.CodeOf(err) == tidemark.CodeUIDTaken {
		return nil // another write came in between
	}
	return err
}

func (d *node) acknowledged(uid, token string) error {
	_, err := fmt.Fprintf(d.acks, "%s %s\n", uid, token)
	return err
}

func (d *node) report(ctx context.Context) (*report, error) {
	s := d.c.Status()
	r := &report{Status: fmt.Sprintf("%+v", s), Well: s.State == client.Synced && s.Pending == 0, Rows: map[string]string{}}
	p, err := tidemark.Where{}.Compile(d.items.Schema())
	if err != nil {
		return nil, err
	}
	rows, err := d.store.Find(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		r.Rows[row.UID()] = string(row)
	}
	rejections, err := d.c.Rejections(ctx)
	for _, x := range rejections {
		r.Rejected = append(r.Rejected, string(x.Mutation.Data.Get("note")))
	}
	return r, err
}
