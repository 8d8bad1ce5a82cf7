package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the servers' processes, which are this program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "melody") {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func TestWorkloadsRun(t *testing.T) {
	t.Parallel()
	b := &bench{n: 1, rows: []int{200}, sessions: []int{20}, engines: []string{"sqlite"}, dir: t.TempDir()}
	if err := b.run(t.Context(), []string{"W0", "W4"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{coldName(200, "sqlite"), "nothing changed, 200 rows, sqlite", fanOutName(20, "sqlite"), idleName(20)} {
		l := b.report.find(name)
		if l == nil || len(l.samples) != 1 || l.samples[0] <= 0 {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if l := b.report.find(fanOutName(20, "sqlite")); l == nil || len(l.limit) != 1 {
		t.Errorf("there is no limit: %+v", l)
	}
}

func TestLimitsAreMatched(t *testing.T) {
	t.Parallel()
	b := &bench{rows: []int{10_000}}
	for _, seconds := range []float64{0.1, 0.3, 0.2} {
		b.report.line("W0", coldName(10_000, "postgres"), "s", ratioAtMost(1.5)).add(seconds)
	}
	b.report.line("W5", localName("create", "NORMAL"), "/s", ratioAtLeast(0.4)).add(100)
	results := filepath.Join(t.TempDir(), "limits.jsonl")
	text := `{"system":"limit: pgx->JSON->ws->sqlite3","workload":"W1/10k","metric":"seconds","value":0.1}
{"system":"limit: something else","workload":"W1/10k","metric":"seconds","value":9}
{"system":"limit: mattn/go-sqlite3 NORMAL","workload":"W5","metric":"create ops/s","value":200}
`
	if err := os.WriteFile(results, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.readLimits(results); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	b.report.print(&out)
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"| 0.2 s | 0.1 to 0.3 | 0.1 | 2 | <= 1.5x | no |",
		"| 100 /s | 100 to 100 | 200 | 0.5 | >= 0.4x | yes |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", out.String(), want)
		}
	}
}
