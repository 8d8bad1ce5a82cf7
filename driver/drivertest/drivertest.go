// Package drivertest is what every [tidemark.Driver] must pass: a table of rules,
// each run on a fresh driver. A failure names the rule that is broken.
//
//	func TestDriver(t *testing.T) {
//		drivertest.Run(t, func(t *testing.T) drivertest.Harness { ... })
//	}
package drivertest

import (
	"context"
	"slices"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// Harness is a driver under test.
type Harness struct {
	// Driver has the models of [Schemas], their tables empty, and has been migrated.
	// The harness closes it, and what belongs to it, by t.Cleanup.
	Driver tidemark.Driver

	// Put stores a row, metadata or both behind the driver's back, as another
	// program would. A nil row leaves metadata without a row, the zero Meta a row without
	// metadata. The uid belongs to model when there is metadata; model "" means that
	// nothing knows it, and row is nil then.
	Put func(t testing.TB, model string, row tidemark.Row, meta tidemark.Meta)

	// Constraints says that the database enforces what [Schemas] describes
	// besides required columns: unique, reference and check.
	Constraints bool

	// RunInTx runs fn in a transaction of the driver, as its own method of that name
	// does, where the driver is a [tidemark.TxDriver]. nil otherwise.
	RunInTx func(ctx context.Context, fn func(ctx context.Context) error) error
}

// Schemas are the suite's models. In a database they are
//
//	note  (uid, text text, n bigint, x double, b boolean, at timestamp, raw bytes, doc json,
//	       dec numeric, id uuid, day date, tod time)
//	list  (uid, title text not null)
//	entry (uid, list_id text references list, slug text unique, rank bigint default 7 check (rank >= 0))
//
// with uid a text primary key, and all but title nullable.
func Schemas() []*tidemark.Schema {
	field := func(name string, k tidemark.Kind) tidemark.Field { return tidemark.Field{Name: name, Kind: k} }
	return []*tidemark.Schema{
		schema("note", field("text", tidemark.Text), field("n", tidemark.Integer), field("x", tidemark.Double), field("b", tidemark.Bool),
			field("at", tidemark.Timestamp), field("raw", tidemark.Bytes), field("doc", tidemark.JSON), field("dec", tidemark.Numeric),
			field("id", tidemark.UUID), field("day", tidemark.Date), field("tod", tidemark.TimeOfDay)),
		schema("list", tidemark.Field{Name: "title", Kind: tidemark.Text, Required: true}),
		schema("entry", field("list_id", tidemark.Text), field("slug", tidemark.Text), field("rank", tidemark.Integer)),
	}
}

func schema(name string, fields ...tidemark.Field) *tidemark.Schema {
	s, err := tidemark.NewSchema(name, fields)
	if err != nil {
		panic(err)
	}
	return s
}

// check is one rule.
type check struct {
	name string
	rule string
	run  func(t *testing.T, h Harness)
}

// Run runs all checks, each on a harness of its own.
func Run(t *testing.T, setup func(t *testing.T) Harness) {
	for _, c := range all() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			defer func() {
				if t.Failed() {
					t.Logf("the rule: %s", c.rule)
				}
			}()
			c.run(t, h)
		})
	}
}

// all are the checks, in their order.
func all() []check {
	return slices.Concat(cellChecks(), decisions, batches, reads, values, races, txs, pulls, cursors, histories, pushes, units, ends)
}

func (h Harness) schema(t testing.TB, model string) *tidemark.Schema {
	t.Helper()
	for _, s := range h.Driver.Models() {
		if s.Name() == model {
			return s
		}
	}
	t.Fatalf("the driver has no model %s", model)
	return nil
}

// write makes a batch and returns its outcomes; the batch itself must succeed.
func (h Harness) write(t testing.TB, ms ...tidemark.Mutation) []tidemark.Outcome {
	t.Helper()
	outs, err := h.Driver.Write(context.Background(), ms)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	if len(outs) != len(ms) {
		t.Fatalf("Write: %d outcomes for %d mutations", len(outs), len(ms))
	}
	return outs
}

// get returns what the driver knows of a row.
func (h Harness) get(t testing.TB, model, uid string) tidemark.RowMeta {
	t.Helper()
	s := h.snapshot(t, model, tidemark.Where{}, uid)
	for _, rm := range append(s.Selected, s.Others...) {
		if rm.Meta.UID == uid || rm.Row.UID() == uid {
			return rm
		}
	}
	return tidemark.RowMeta{}
}

func (h Harness) snapshot(t testing.TB, model string, w tidemark.Where, uids ...string) *tidemark.Snapshot {
	t.Helper()
	s, err := h.Driver.Snapshot(context.Background(), h.compile(t, model, w), uids)
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	return s
}

func (h Harness) find(t testing.TB, model string, w tidemark.Where) []tidemark.Row {
	t.Helper()
	rows, err := h.Driver.Find(context.Background(), h.compile(t, model, w), 0)
	if err != nil {
		t.Fatalf("Find: %v", err)
	}
	return rows
}

func (h Harness) compile(t testing.TB, model string, w tidemark.Where) *tidemark.Predicate {
	t.Helper()
	p, err := w.Compile(h.schema(t, model))
	if err != nil {
		t.Fatalf("where %v: %v", w, err)
	}
	return p
}

// mutation is a write whose data is JSON text, checked as a server checks it.
func (h Harness) mutation(t testing.TB, op tidemark.Op, model, uid, data string, stamp tidemark.Stamp) tidemark.Mutation {
	t.Helper()
	m := tidemark.Mutation{Model: model, UID: uid, Op: op, Stamp: stamp}
	if data == "" {
		return m
	}
	patch, unknown, err := h.schema(t, model).Patch(uid, []byte(data))
	if err != nil || unknown != nil {
		t.Fatalf("data %s: %v, unknown %v", data, err, unknown)
	}
	m.Data = patch
	return m
}

// full returns the row that has data over nulls.
func (h Harness) full(t testing.TB, model, uid string, data tidemark.Row) tidemark.Row {
	t.Helper()
	row := append(tidemark.Row(`{"uid":`), tidemark.AppendString(nil, uid)...)
	for _, f := range h.schema(t, model).Fields()[1:] {
		row = append(row, ',')
		row = append(tidemark.AppendString(row, f.Name), ":null"...)
	}
	return append(row, '}').Merge(data)
}
