package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the other processes, which are this program again.
func TestMain(m *testing.M) {
	if isChild(os.Args) {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// small is a bench of which each workload takes about a second.
func small(t *testing.T) *bench {
	return &bench{n: 1, rows: []int{200}, first: 700, held: []int{300}, sessions: []int{20}, queued: 60, upserted: 1500,
		crowds: []company{{5, 2}}, engines: []string{"sqlite"}, dir: t.TempDir(),
		load: load{idle: []int{20}, storm: 20, slow: 3, changes: 300, devices: 3, soak: time.Second}}
}

func TestWorkloadsRun(t *testing.T) {
	t.Parallel()
	lines := map[string][]string{
		"W0":     {coldName(200, "sqlite"), "nothing changed, 200 rows, sqlite"},
		"W1":     {scopedName(700, "sqlite"), scopedBytesName(700, "sqlite"), "  requests, all 700 rows, sqlite"},
		"W2":     {catchUpName(300, "sqlite"), catchUpBytesName(300, "sqlite"), "  round trips, nothing of 300 rows, sqlite", "a device hears of a change, 300 rows held, sqlite"},
		"W4":     {fanOutName(20, byChannel, "sqlite"), fanOutName(20, byScope, "sqlite"), idleName(20, byChannel), idleName(20, byScope)},
		"W6":     {queueName(60, "sqlite")},
		"W8":     {upsertName("Driver.Write, creates", "sqlite"), upsertName("Driver.Push, updates", "sqlite")},
		"growth": {"catch-up of 100, 5 clients with 10 scopes connected, sqlite", "a device hears of a change, 5 clients with 10 scopes connected, sqlite"},
		"load":   {"storm of 20 clients with a write each, sqlite: until all are synchronised", "soak of 1s, 3 devices, sqlite: then all agree after"},
	}
	for workload, names := range lines {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			b := small(t)
			if err := b.run(t.Context(), []string{workload}); err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				l := b.report.find(name)
				if l == nil || len(l.samples) == 0 || l.samples[0] <= 0 {
					t.Errorf("%s: %+v", name, l)
				}
			}
			if workload == "W4" && len(b.report.find(names[1]).limit) != 1 {
				t.Error("there is no limit")
			}
		})
	}
}

func TestNothingChangedIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	b := small(t)
	if err := b.run(t.Context(), []string{"W2"}); err != nil {
		t.Fatal(err)
	}
	if got := b.report.find("  round trips, nothing of 300 rows, sqlite").samples[0]; got != 1 {
		t.Errorf("%v round trips instead of 1", got)
	}
}

func TestLimitsAreMatched(t *testing.T) {
	t.Parallel()
	b := &bench{rows: []int{10_000}, first: 100_000}
	for _, seconds := range []float64{0.1, 0.3, 0.2} {
		b.report.line("W0", coldName(10_000, "postgres"), "s", ratioAtMost(1.5)).add(seconds)
	}
	b.report.line("W2", catchUpName(100_000, "postgres"), "ms", ratioAtMost(2.5)).add(10)
	b.report.line("W5", localName("create", "NORMAL"), "/s", ratioAtLeast(0.4)).add(100)
	results := filepath.Join(t.TempDir(), "limits.jsonl")
	text := `{"system":"limit: pgx->JSON->ws->sqlite3","workload":"W1/10k","metric":"seconds","value":0.1}
{"system":"limit: something else","workload":"W1/10k","metric":"seconds","value":9}
{"system":"limit: seq cursor over ws","workload":"W2","metric":"seconds","value":0.005}
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
		"| 10 ms | 10 to 10 | 5 | 2 | <= 2.5x | yes |",
		"| 100 /s | 100 to 100 | 200 | 0.5 | >= 0.4x | yes |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", out.String(), want)
		}
	}
}
