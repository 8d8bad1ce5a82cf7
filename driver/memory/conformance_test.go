package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

func TestDriver(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		d := memory.New(drivertest.Schemas()...)
		t.Cleanup(func() { d.Close() })
		return drivertest.Harness{Driver: d, RunInTx: d.RunInTx, Put: func(_ testing.TB, model string, row tidemark.Row, meta tidemark.Meta) { d.Put(model, row, meta) }}
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
