package drivertest_test

import (
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

func TestTheMemoryDriverPasses(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		d := memory.New(drivertest.Schemas()...)
		t.Cleanup(func() { _ = d.Close() })
		return drivertest.Harness{Driver: d, Put: func(_ testing.TB, model string, row tidemark.Row, meta tidemark.Meta) {
			d.Put(model, row, meta)
		}}
	})
}
