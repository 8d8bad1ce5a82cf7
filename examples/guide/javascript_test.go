package main

import (
	"testing"

	"github.com/tidemark-sync/tidemark/internal/jsclient"
)

// javascript is the client of testdata/offline.mjs, in a process of its own.
type javascript struct {
	*jsclient.Client
	t *testing.T
}

// startJavaScript starts a client of the server at url. It does not connect yet.
func startJavaScript(t *testing.T, url string) *javascript {
	t.Helper()
	return &javascript{jsclient.Start(t, "testdata/remote.mjs", url), t}
}
