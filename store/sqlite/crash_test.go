package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// crashFile names, in the environment of a child process, the file that it is to write.
const crashFile = "TIDEMARK_TEST_CRASH_FILE"

// writeUntilKilled makes updates, each of a row, a mutation and an entry, and says
// the number of each once it is durable.
func writeUntilKilled(path string) error {
	db, err := sql.Open("sqlite3", sqlite.DSN(path))
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := sqlite.Open(ctx, db, nil)
	if err != nil {
		return err
	}
	schema, err := crashSchema()
	if err == nil {
		err = s.Declare(ctx, schema)
	}
	for err == nil {
		var n int
		err = s.Update(ctx, func(tx tidemark.StoreTx) error {
			v, err := tx.Load("n")
			if err != nil {
				return err
			}
			n, _ = strconv.Atoi(string(v))
			n++
			uid := fmt.Sprintf("u%08d", n)
			row := tidemark.Row(fmt.Sprintf(`{"uid":%q,"qty":%d,"text":%q}`, uid, n, strings.Repeat("x", n%3000)))
			return errors.Join(
				tx.Put("crash", []tidemark.Record{{UID: uid, Row: row, Pending: 1}}),
				tx.Enqueue([]tidemark.Mutation{{Model: "crash", UID: uid, Op: tidemark.Create, Data: row, Stamp: tidemark.Stamp(n)}}),
				tx.Save("n", []byte(strconv.Itoa(n))))
		})
		fmt.Println(n)
	}
	return err
}

func crashSchema() (*tidemark.Schema, error) {
	return tidemark.NewSchema("crash", []tidemark.Field{{Name: "qty", Kind: tidemark.Integer, Indexed: true}, {Name: "text", Kind: tidemark.Text}})
}

// TestAcknowledgedUpdatesSurviveKill: a process is killed in the middle of writing,
// again and again; every update that it has acknowledged is there, whole, and
// none is there in part.
func TestAcknowledgedUpdatesSurviveKill(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	path := file(t)
	acknowledged := 0
	for round := range 25 {
		if said := writeAndKill(t, path, 1+r.IntN(60)); said > 0 {
			acknowledged = said
		}
		found := countCrash(t, path)
		if found < acknowledged {
			t.Fatalf("seed %d, round %d: %d updates acknowledged, %d found", seed, round, acknowledged, found)
		}
	}
	if acknowledged < 100 {
		t.Fatalf("only %d updates in all", acknowledged)
	}
}

// writeAndKill runs a child until it has acknowledged so many updates, kills it,
// and returns the last number that it has said.
func writeAndKill(t *testing.T, path string, updates int) (last int) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashFile+"="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for said := 0; lines.Scan(); said++ {
		if n, err := strconv.Atoi(lines.Text()); err == nil {
			last = n
		}
		if said == updates {
			_ = child.Process.Kill()
		}
	}
	_ = child.Wait()
	return last
}

// countCrash opens the file and returns how many updates it has, each of which must be whole.
func countCrash(t *testing.T, path string) int {
	t.Helper()
	s, db := open(t, path, nil)
	defer func() { _ = errors.Join(s.Close(), db.Close()) }()
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	schema, err := crashSchema()
	if err != nil {
		t.Fatal(err)
	}
	p, err := tidemark.Where{"qty": tidemark.Range{GT: 0}}.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := s.Find(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx tidemark.StoreTx) error {
		n, err := tx.Load("n")
		queued, err2 := tx.Outbox(0, 0)
		for i, m := range queued {
			if m.N != int64(i+1) || m.Stamp != tidemark.Stamp(i+1) || string(m.Data) != string(rows[i]) {
				t.Fatalf("mutation %d is %d of stamp %d", i+1, m.N, m.Stamp)
			}
		}
		if strconv.Itoa(len(rows)) != string(n) || len(queued) != len(rows) {
			t.Fatalf("%d rows, %d mutations, entry %s: an update is there in part", len(rows), len(queued), n)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}

// TestTwoProcessesShareAFile: this process and another write one file; every
// update of both is there, and their numbers do not collide.
func TestTwoProcessesShareAFile(t *testing.T) {
	t.Parallel()
	path := file(t)
	if err := tryOpen(t, path, nil); err != nil {
		t.Fatal(err)
	}
	theirs := make(chan int)
	go func() { theirs <- writeAndKill(t, path, 150) }()
	s, _ := open(t, path, nil)
	mine := 0
	for last := 0; ; mine++ {
		select {
		case last = <-theirs:
		default:
		}
		err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
			return errors.Join(tx.Save("mine", []byte(strconv.Itoa(mine))),
				tx.Enqueue([]tidemark.Mutation{{Model: "mine", UID: strconv.Itoa(mine), Op: tidemark.Delete, Stamp: 1}}))
		})
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			continue
		}
		count := map[string]int{}
		err = s.View(t.Context(), func(tx tidemark.StoreTx) error {
			ms, err := tx.Outbox(0, 0)
			for i, m := range ms {
				count[m.Model]++
				if m.N != int64(i+1) {
					t.Errorf("mutation %d has the number %d", i+1, m.N)
				}
			}
			return err
		})
		if err != nil || count["mine"] != mine+1 || count["crash"] < last {
			t.Errorf("%v of mine after %d, of theirs after %d (%v)", count, mine+1, last, err)
		}
		return
	}
}
