package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Every bug still fits the code, has a name of its own, and is in the list of them.
func TestBugsFit(t *testing.T) {
	t.Parallel()
	all, err := choose("")
	if err != nil {
		t.Fatal(err)
	}
	l := &looking{dir: t.TempDir()}
	if l.root, err = moduleRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(l.root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range all {
		b := &all[i]
		if _, err := l.plant(b); err != nil || len(b.edits) == 0 || b.found.pkg == "" || seen[b.name] {
			t.Errorf("%s: %v", b.name, err)
		}
		if !bytes.Contains(list, []byte("| `"+b.name+"` |")) {
			t.Errorf("%s is not in docs/reliability.md", b.name)
		}
		seen[b.name] = true
	}
	if len(all) < 20 {
		t.Errorf("there are only %d bugs", len(all))
	}
}

// An edit that fits nowhere, or in two places, is an error.
func TestEditsThatDoNotFit(t *testing.T) {
	t.Parallel()
	l := &looking{dir: t.TempDir(), root: t.TempDir()}
	if err := os.WriteFile(filepath.Join(l.root, "a.go"), []byte("one two two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for old, fits := range map[string]bool{"one": true, "two": false, "three": false} {
		if _, err := l.plant(&bug{edits: []edit{{"a.go", old, "x"}}}); (err == nil) != fits {
			t.Errorf("%s: %v", old, err)
		}
	}
}
