package memory

import (
	"fmt"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// Put stores a row and its metadata as they are, behind the driver's back, as
// another program would, or as a test needs them. A nil row leaves metadata
// without a row; zero metadata leaves a row without metadata. The log does not hear of it. model may be "" for
// metadata whose model is not known, and row must then be nil. During a transaction
// of RunInTx it has no lasting effect. Put panics for a
// model that the driver lacks and for a row and metadata of different uids.
func (d *Driver) Put(model string, row tidemark.Row, meta tidemark.Meta) {
	d.mu.Lock()
	defer d.mu.Unlock()
	uid := meta.UID
	if row != nil {
		uid = row.UID()
		d.mustTable(model).put(uid, slices.Clone(row))
	}
	if uid == "" || meta.UID != "" && meta.UID != uid {
		panic("memory: Put needs a uid, and the same in row and metadata")
	}
	if meta.UID != "" {
		d.metas[uid] = entry{model, meta}
	}
}

// Drop removes a row and leaves its metadata, if there is any.
func (d *Driver) Drop(model, uid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mustTable(model).put(uid, nil)
}

// DropMeta removes a uid's metadata, and what is known of its model, and leaves the row.
func (d *Driver) DropMeta(uid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.metas, uid)
}

// Get returns a row and its metadata as they stand, nil and zero where there is none.
func (d *Driver) Get(model, uid string) tidemark.RowMeta {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.rowMeta(d.mustTable(model), uid)
}

// Len returns how many rows a model has.
func (d *Driver) Len(model string) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.mustTable(model).rows)
}

func (d *Driver) mustTable(model string) *table {
	t := d.tables[model]
	if t == nil {
		panic(fmt.Sprintf("memory: there is no model %s", model))
	}
	return t
}
