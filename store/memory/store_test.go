package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		s := memory.New()
		first := true
		return storetest.Harness{Reopen: true, Open: func() (tidemark.Store, error) {
			if !first {
				s = s.Reopen()
			}
			first = false
			return s, nil
		}}
	})
}
