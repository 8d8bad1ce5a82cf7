package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// folders are the letters of docs/scenarios.md.
var folders = map[string]string{"e": ".", "c": "../../client", "s": "../../server", "g": "../../examples/guide",
	"b": "../../driver/bundriver", "d": "../../driver/drivertest", "r": "../.."}

// Every scenario names a test, and every test that is named exists.
func TestEveryScenarioHasATest(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("../../docs/scenarios.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{}
	for letter, dir := range folders {
		tests[letter] = sources(t, dir)
	}
	named := regexp.MustCompile("`([a-z])\\.(Test\\w+)`")
	told := ""
	for line := range strings.Lines(string(table)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "|---") || strings.Contains(line, "| no. |") {
			continue
		}
		told += "," + strings.ReplaceAll(cells[1], " ", "")
		found := named.FindAllStringSubmatch(cells[4], -1)
		if len(found) == 0 {
			t.Errorf("no test is named in %s", line)
		}
		for _, m := range found {
			if !strings.Contains(tests[m[1]], "func "+m[2]+"(") {
				t.Errorf("there is no %s in %s", m[2], folders[m[1]])
			}
		}
	}
	told = strings.ReplaceAll(told+",", ",fault", ",f")
	for i := 1; i <= 100; i++ {
		if !strings.Contains(told, fmt.Sprintf(",%d,", i)) {
			t.Errorf("scenario %d is missing", i)
		}
		if i <= 22 && !strings.Contains(told, fmt.Sprintf(",f%d,", i)) {
			t.Errorf("fault %d is missing", i)
		}
	}
}

func sources(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}
