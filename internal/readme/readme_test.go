package readme

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README shows exactly what is compiled here.
func TestSnippetsAreWhatCompiles(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) != 3 {
		t.Fatalf("the README has %d Go snippets, want 3", len(blocks))
	}
	for i, name := range []string{"server.go", "transaction.go", "client.go"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(src), strings.TrimSpace(blocks[i][1])) {
			t.Errorf("the README's snippet %d is not in %s", i+1, name)
		}
	}
}
