package memory_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

func setup(t *testing.T) *memory.Driver {
	t.Helper()
	post, err := tidemark.NewSchema("post", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text, Required: true},
		{Name: "likes", Kind: tidemark.Integer},
	})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := tidemark.NewSchema("tag", []tidemark.Field{{Name: "name", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	return memory.New(post, tag)
}

func write(t *testing.T, d *memory.Driver, m tidemark.Mutation) tidemark.Outcome {
	t.Helper()
	os, err := d.Write(context.Background(), []tidemark.Mutation{m})
	if err != nil {
		t.Fatal(err)
	}
	return os[0]
}

func all(t *testing.T, d *memory.Driver, model int) *tidemark.Predicate {
	t.Helper()
	p, err := tidemark.Where{}.Compile(d.Models()[model])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInsertGivesEveryColumn(t *testing.T) {
	t.Parallel()
	d := setup(t)
	o := write(t, d, tidemark.Mutation{Model: "post", UID: "a", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 5})
	if got, want := string(o.Row), `{"uid":"a","title":"x","likes":null}`; got != want || !o.Applied || o.Before != nil {
		t.Fatalf("got %s %+v, want %s", got, o, want)
	}
	o = write(t, d, tidemark.Mutation{Model: "post", UID: "a", Op: tidemark.Update, Data: tidemark.Row(`{"likes":3}`), Stamp: 6})
	if got, want := string(o.Row), `{"uid":"a","title":"x","likes":3}`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if want := (tidemark.Meta{UID: "a", CreatedAt: 5, UpdatedAt: 6}); o.Meta != want {
		t.Fatalf("got %+v, want %+v", o.Meta, want)
	}
}

func TestRefusedMutationHasNoEffect(t *testing.T) {
	t.Parallel()
	d := setup(t)
	write(t, d, tidemark.Mutation{Model: "tag", UID: "t", Op: tidemark.Create, Data: tidemark.Row(`{}`), Stamp: 1})
	for name, c := range map[string]struct {
		m    tidemark.Mutation
		code tidemark.Code
	}{
		"required absent": {tidemark.Mutation{Model: "post", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{"likes":1}`), Stamp: 5}, tidemark.CodeConstraint},
		"required null":   {tidemark.Mutation{Model: "post", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{"title":null}`), Stamp: 5}, tidemark.CodeConstraint},
		"taken":           {tidemark.Mutation{Model: "post", UID: "t", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 5}, tidemark.CodeUIDTaken},
		"no stamp":        {tidemark.Mutation{Model: "post", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`)}, tidemark.CodeInvalidStamp},
		"no model":        {tidemark.Mutation{Model: "nope", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{}`), Stamp: 1}, tidemark.CodeUnknownModel},
		"no uid":          {tidemark.Mutation{Model: "post", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 1}, tidemark.CodeInvalidData},
	} {
		o := write(t, d, c.m)
		if o.Err == nil || o.Err.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, o.Err, c.code)
		}
		if rm := d.Get("post", "b"); rm.Row != nil || !rm.Meta.IsZero() {
			t.Errorf("%s: left %+v", name, rm)
		}
	}
	if got := d.Get("tag", "t"); got.Meta.CreatedAt != 1 {
		t.Errorf("the other model's metadata changed: %+v", got)
	}
}

func TestSnapshotTellsSelectedFromOthers(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.Put("post", tidemark.Row(`{"uid":"in","title":"x","likes":null}`), tidemark.Meta{})
	d.Put("post", tidemark.Row(`{"uid":"out","title":"y","likes":null}`), tidemark.Meta{UID: "out", CreatedAt: 3})
	d.Put("post", nil, tidemark.Meta{UID: "grave", DeletedAt: 4})
	d.Put("tag", nil, tidemark.Meta{UID: "foreign", DeletedAt: 4})
	p, err := tidemark.Where{"title": "x"}.Compile(d.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Snapshot(context.Background(), p, []string{"in", "out", "out", "grave", "foreign", "none"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Selected) != 1 || s.Selected[0].Row.UID() != "in" || !s.Selected[0].Meta.IsZero() {
		t.Errorf("selected %+v", s.Selected)
	}
	if len(s.Others) != 2 || s.Others[0].Row.UID() != "out" || s.Others[1].Meta.UID != "grave" || s.Others[1].Row != nil {
		t.Errorf("others %+v", s.Others)
	}
}

func TestAdoptOnlyWhereThereIsARowWithoutMetadata(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.Put("post", tidemark.Row(`{"uid":"a","title":"x","likes":null}`), tidemark.Meta{})
	o := write(t, d, tidemark.Mutation{Model: "post", UID: "a", Op: tidemark.Adopt, Stamp: 7})
	if !o.Applied || o.Meta.CreatedAt != 7 || o.Row == nil {
		t.Errorf("first: %+v", o)
	}
	o = write(t, d, tidemark.Mutation{Model: "post", UID: "a", Op: tidemark.Adopt, Stamp: 9})
	if o.Applied || o.Meta.CreatedAt != 7 {
		t.Errorf("second: %+v", o)
	}
	o = write(t, d, tidemark.Mutation{Model: "post", UID: "none", Op: tidemark.Adopt, Stamp: 9})
	if o.Applied || !d.Get("post", "none").Meta.IsZero() {
		t.Errorf("absent row: %+v", o)
	}
}

func TestMigrateGivesMetadata(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.Put("post", tidemark.Row(`{"uid":"a","title":"x","likes":null}`), tidemark.Meta{})
	if err := d.Migrate(context.Background()); err != nil {
		t.Fatal(err)
	}
	m := d.Get("post", "a").Meta
	if m.CreatedAt == 0 {
		t.Fatalf("got %+v", m)
	}
	if err := d.Migrate(context.Background()); err != nil || d.Get("post", "a").Meta != m {
		t.Errorf("the second run changed the metadata: %v", err)
	}
}

func TestDoneContextAndClose(t *testing.T) {
	t.Parallel()
	d := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Find(ctx, all(t, d, 0), 0); !errors.Is(err, context.Canceled) || tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	_ = d.Close()
	if err := d.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := d.Write(context.Background(), nil); !errors.Is(err, tidemark.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
