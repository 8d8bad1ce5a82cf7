package pipe_test

import (
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/pipe"
	"github.com/tidemark-sync/tidemark/transport/transporttest"
)

func TestConformance(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Harness {
		var p *pipe.Pipe
		return transporttest.Harness{
			Serve: func(a tidemark.Acceptor) tidemark.Dialer {
				p = pipe.New(a, nil)
				t.Cleanup(func() { _ = p.Close() })
				return p
			},
			QueueBytes: pipe.DefaultQueueBytes,
			Cut:        func() { p.Cut() },
			Shutdown:   func() { _ = p.Close() },
		}
	})
}
