package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// The benchmarks come in pairs: the store, and bare SQLite doing the least that
// such a program must do on the same rows, as "limit".

var posts = func() *tidemark.Schema {
	s, err := tidemark.NewSchema("post", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text},
		{Name: "content", Kind: tidemark.Text},
		{Name: "list_id", Kind: tidemark.Text, Indexed: true},
		{Name: "created", Kind: tidemark.Timestamp},
		{Name: "updated", Kind: tidemark.Timestamp},
	})
	if err != nil {
		panic(err)
	}
	return s
}()

type post struct{ uid, title, content, list, at string }

func makePosts(n int) []post {
	r := rand.New(rand.NewPCG(1, 1))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[r.IntN(63)]
		}
		return string(b)
	}
	ps := make([]post, n)
	for i := range ps {
		at := tidemark.Stamp(1_700_000_000_000_000 + int64(i)*1000).String()
		ps[i] = post{uuid.Must(uuid.NewV7()).String(), text(20), text(200), fmt.Sprintf("list-%06d", i%max(n/100, 1)), at}
	}
	return ps
}

func (p *post) record() tidemark.Record {
	r := tidemark.Row(fmt.Sprintf(`{"uid":%q,"title":%q,"content":%q,"list_id":%q,"created":%q,"updated":%q}`, p.uid, p.title, p.content, p.list, p.at, p.at))
	return tidemark.Record{UID: p.uid, Row: r, Base: r, Meta: tidemark.Meta{UID: p.uid, CreatedAt: 1, UpdatedAt: 2}}
}

func records(ps []post) []tidemark.Record {
	recs := make([]tidemark.Record, len(ps))
	for i := range ps {
		recs[i] = ps[i].record()
	}
	return recs
}

func benchStore(b *testing.B, level string) *sqlite.Store {
	dsn := sqlite.DSN(filepath.Join(b.TempDir(), "bench.db"))
	if level == "NORMAL" {
		dsn = sqlite.DSNNormal(filepath.Join(b.TempDir(), "bench.db"))
	}
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		b.Fatal(err)
	}
	s, err := sqlite.Open(b.Context(), db, &sqlite.Options{AllowNormal: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(); _ = db.Close() })
	if err := s.Declare(b.Context(), posts); err != nil {
		b.Fatal(err)
	}
	return s
}

const bareTable = `create table items (uid text primary key, title text not null, content text not null, list_id text not null,
  created_at text not null, updated_at text not null) without rowid;
create index items_list on items(list_id);`

func benchBare(b *testing.B, level string) *sql.DB {
	db, err := sql.Open("sqlite3", filepath.Join(b.TempDir(), "bare.db")+"?_journal_mode=WAL&_busy_timeout=5000&_synchronous="+level)
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	b.Cleanup(func() { _ = db.Close() })
	if _, err := db.Exec(bareTable); err != nil {
		b.Fatal(err)
	}
	return db
}

const bareInsert = "insert into items(uid,title,content,list_id,created_at,updated_at) values"

func fillBare(b *testing.B, db *sql.DB, ps []post) {
	const per = 50
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	many, err := tx.Prepare(bareInsert + strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?),", per), ","))
	if err != nil {
		b.Fatal(err)
	}
	var args []any
	for i, p := range ps {
		args = append(args, p.uid, p.title, p.content, p.list, p.at, p.at)
		if (i+1)%per == 0 {
			if _, err := many.Exec(args...); err != nil {
				b.Fatal(err)
			}
			args = args[:0]
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}

func fillStore(b *testing.B, s *sqlite.Store, recs []tidemark.Record, page int) {
	for len(recs) > 0 {
		n := min(page, len(recs))
		if err := s.Update(context.Background(), func(tx tidemark.StoreTx) error { return tx.Put("post", recs[:n]) }); err != nil {
			b.Fatal(err)
		}
		recs = recs[n:]
	}
}

func eachLevel(b *testing.B, fn func(b *testing.B, level string)) {
	for _, level := range []string{"FULL", "NORMAL"} {
		b.Run(level, func(b *testing.B) { fn(b, level) })
	}
}

// BenchmarkCreate is a local write: the record is read, stored and enqueued in one transaction.
func BenchmarkCreate(b *testing.B) {
	ps := makePosts(20_000)
	eachLevel(b, func(b *testing.B, level string) {
		b.Run("store", func(b *testing.B) {
			s := benchStore(b, level)
			recs := records(ps)
			i := 0
			for b.Loop() {
				rec := recs[i%len(recs)]
				if i++; i > len(recs) { // a new row none the less
					uid := uuid.Must(uuid.NewV7()).String()
					rec = tidemark.Record{UID: uid, Row: rec.Row.With("uid", []byte(`"`+uid+`"`))}
				}
				rec.Base, rec.Pending, rec.Meta.UID = nil, 1, rec.UID
				m := []tidemark.Mutation{{Model: "post", UID: rec.UID, Op: tidemark.Create, Data: rec.Row, Stamp: 5}}
				err := s.Update(context.Background(), func(tx tidemark.StoreTx) error {
					if _, err := tx.Records("post", []string{rec.UID}); err != nil {
						return err
					}
					if err := tx.Put("post", []tidemark.Record{rec}); err != nil {
						return err
					}
					return tx.Enqueue(m)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("limit", func(b *testing.B) {
			db := benchBare(b, level)
			ins, err := db.Prepare(bareInsert + "(?,?,?,?,?,?)")
			if err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				p := ps[i%len(ps)]
				if i++; i > len(ps) {
					p.uid = uuid.Must(uuid.NewV7()).String()
				}
				if _, err := ins.Exec(p.uid, p.title, p.content, p.list, p.at, p.at); err != nil {
					b.Fatal(err)
				}
			}
			_ = ins.Close()
		})
	})
}

// BenchmarkUpdate is a local write of one column of a row among 100,000: the
// server's state is kept beside the row until it is confirmed.
func BenchmarkUpdate(b *testing.B) {
	ps := makePosts(many)
	eachLevel(b, func(b *testing.B, level string) {
		b.Run("store", func(b *testing.B) {
			s := benchStore(b, level)
			fillStore(b, s, records(ps), 10_000)
			i := 0
			for b.Loop() {
				uid := ps[i*37%many].uid
				i++
				err := s.Update(context.Background(), func(tx tidemark.StoreTx) error {
					recs, err := tx.Records("post", []string{uid})
					if err != nil {
						return err
					}
					recs[0].Row = recs[0].Row.With("title", []byte(`"changed title 123456"`))
					recs[0].Pending = 1
					if err := tx.Enqueue([]tidemark.Mutation{{Model: "post", UID: uid, Op: tidemark.Update, Data: tidemark.Row(`{"title":"changed title 123456"}`), Stamp: 5}}); err != nil {
						return err
					}
					return tx.Put("post", recs)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("limit", func(b *testing.B) {
			db := benchBare(b, level)
			fillBare(b, db, ps)
			upd, err := db.Prepare("update items set title=?, updated_at=? where uid=?")
			if err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				p := ps[i*37%many]
				i++
				if _, err := upd.Exec("changed title 123456", p.at, p.uid); err != nil {
					b.Fatal(err)
				}
			}
			_ = upd.Close()
		})
	})
}

const many = 100_000

func BenchmarkGet(b *testing.B) {
	ps := makePosts(many)
	b.Run("store", func(b *testing.B) {
		s := benchStore(b, "FULL")
		fillStore(b, s, records(ps), 10_000)
		i := 0
		for b.Loop() {
			i++
			if r, err := s.Get(context.Background(), "post", ps[i*41%many].uid); err != nil || r == nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("limit", func(b *testing.B) {
		db := benchBare(b, "FULL")
		fillBare(b, db, ps)
		get, err := db.Prepare("select uid,title,content,list_id,created_at,updated_at from items where uid=?")
		if err != nil {
			b.Fatal(err)
		}
		i := 0
		for b.Loop() {
			i++
			var uid, title, content, list, c, u string
			if err := get.QueryRow(ps[i*41%many].uid).Scan(&uid, &title, &content, &list, &c, &u); err != nil {
				b.Fatal(err)
			}
		}
		_ = get.Close()
	})
}

// BenchmarkFind finds 100 rows by an indexed field among 100,000.
func BenchmarkFind(b *testing.B) {
	ps := makePosts(many)
	b.Run("store", func(b *testing.B) {
		s := benchStore(b, "FULL")
		fillStore(b, s, records(ps), 10_000)
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		for name, ctx := range map[string]context.Context{"plain": context.Background(), "cancellable": ctx} {
			b.Run(name, func(b *testing.B) {
				i := 0
				for b.Loop() {
					i++
					p, err := tidemark.Where{"list_id": ps[i*7%many].list}.Compile(posts)
					if err != nil {
						b.Fatal(err)
					}
					if rows, err := s.Find(ctx, p); err != nil || len(rows) != 100 {
						b.Fatal(len(rows), err)
					}
				}
			})
		}
		b.Run("unindexed", func(b *testing.B) {
			for b.Loop() {
				p, err := tidemark.Where{"title": ps[7].title}.Compile(posts)
				if err != nil {
					b.Fatal(err)
				}
				if rows, err := s.Find(ctx, p); err != nil || len(rows) != 1 {
					b.Fatal(len(rows), err)
				}
			}
		})
	})
	b.Run("limit", func(b *testing.B) {
		db := benchBare(b, "FULL")
		fillBare(b, db, ps)
		find, err := db.Prepare("select uid,title,content,list_id,created_at,updated_at from items where list_id=?")
		if err != nil {
			b.Fatal(err)
		}
		i := 0
		for b.Loop() {
			i++
			rows, err := find.Query(ps[i*7%many].list)
			if err != nil {
				b.Fatal(err)
			}
			var found []post
			for rows.Next() {
				var p post
				var u string
				if err := rows.Scan(&p.uid, &p.title, &p.content, &p.list, &p.at, &u); err != nil {
					b.Fatal(err)
				}
				found = append(found, p)
			}
			_ = rows.Close()
			if len(found) != 100 {
				b.Fatal(len(found))
			}
		}
		_ = find.Close()
	})
}

// BenchmarkBulk stores 10,000 rows in one transaction.
func BenchmarkBulk(b *testing.B) {
	ps := makePosts(10_000)
	b.Run("store", func(b *testing.B) {
		recs := records(ps)
		for b.Loop() {
			b.StopTimer()
			s := benchStore(b, "FULL")
			b.StartTimer()
			fillStore(b, s, recs, len(recs))
			b.StopTimer()
			_ = s.Close()
			b.StartTimer()
		}
	})
	b.Run("limit", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			db := benchBare(b, "FULL")
			b.StartTimer()
			fillBare(b, db, ps)
		}
	})
}

// BenchmarkPages stores 100,000 rows as a first sync does: by pages, each of which
// reads the records and pending writes before.
func BenchmarkPages(b *testing.B) {
	ps := makePosts(many)
	recs := records(ps)
	for _, size := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("store/%d", size), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := benchStore(b, "NORMAL")
				b.StartTimer()
				for page := range slices.Chunk(recs, size) {
					storePage(b, s, page)
				}
			}
		})
	}
	b.Run("limit", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			db := benchBare(b, "NORMAL")
			b.StartTimer()
			fillBare(b, db, ps)
		}
	})
}

func storePage(b *testing.B, s *sqlite.Store, page []tidemark.Record) {
	uids := make([]string, len(page))
	for i := range page {
		uids[i] = page[i].UID
	}
	err := s.Update(context.Background(), func(tx tidemark.StoreTx) error {
		if _, err := tx.Records("post", uids); err != nil {
			return err
		}
		if _, err := tx.Pending("post", uids); err != nil {
			return err
		}
		return tx.Put("post", page)
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOpen opens a file of 100,000 rows.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "bench.db")
	s, _ := open(b, path, nil)
	if err := s.Declare(b.Context(), posts); err != nil {
		b.Fatal(err)
	}
	fillStore(b, s, records(makePosts(many)), 10_000)
	for name, limit := range map[string]int64{"unchecked": -1, "checked": 1 << 40} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				db, err := sql.Open("sqlite3", sqlite.DSN(path))
				if err != nil {
					b.Fatal(err)
				}
				s, err := sqlite.Open(b.Context(), db, &sqlite.Options{CheckLimit: limit})
				if err != nil {
					b.Fatal(err)
				}
				_ = s.Close()
				_ = db.Close()
			}
		})
	}
}

// BenchmarkHeld reads what a sync of 10,000 rows tells the server.
func BenchmarkHeld(b *testing.B) {
	s := benchStore(b, "FULL")
	fillStore(b, s, records(makePosts(10_000)), 10_000)
	all, err := tidemark.Where{}.Compile(posts)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		err := s.View(context.Background(), func(tx tidemark.StoreTx) error {
			metas, err := tx.Held(all)
			if err == nil && len(metas) != 10_000 {
				err = fmt.Errorf("%d rows", len(metas))
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut stores 100,000 rows by pages, into an empty table and over the
// same rows, of which one column has changed. It tells the processor's time besides, which
// other programs on the machine disturb less.
func BenchmarkPut(b *testing.B) {
	ps := makePosts(many)
	recs := records(ps)
	newer := make([]tidemark.Record, len(recs))
	for i, r := range recs {
		r.Row = r.Row.With("title", []byte(`"changed title 123456"`))
		r.Base, r.Meta.UpdatedAt = r.Row, 3
		newer[i] = r
	}
	for _, size := range []int{1000, 5000, many} {
		b.Run(fmt.Sprintf("store/%d", size), func(b *testing.B) {
			var empty, over time.Duration
			for b.Loop() {
				b.StopTimer()
				s := benchStore(b, "NORMAL")
				b.StartTimer()
				start := processorTime()
				fillStore(b, s, recs, size)
				middle := processorTime()
				fillStore(b, s, newer, size)
				empty, over = empty+middle-start, over+processorTime()-middle
			}
			b.ReportMetric(float64(empty.Milliseconds())/float64(b.N), "cpu-ms-empty/op")
			b.ReportMetric(float64(over.Milliseconds())/float64(b.N), "cpu-ms-over/op")
		})
	}
	b.Run("limit", func(b *testing.B) {
		var empty time.Duration
		for b.Loop() {
			b.StopTimer()
			db := benchBare(b, "NORMAL")
			b.StartTimer()
			start := processorTime()
			fillBare(b, db, ps)
			empty += processorTime() - start
		}
		b.ReportMetric(float64(empty.Milliseconds())/float64(b.N), "cpu-ms-empty/op")
	})
}

// processorTime is how long the process has used a processor.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPending creates a row while so many writes are pending: the number must not matter.
func BenchmarkPending(b *testing.B) {
	ps := makePosts(many + 30_000)
	create := func(b *testing.B, s *sqlite.Store, recs []tidemark.Record) {
		ms := make([]tidemark.Mutation, len(recs))
		for i := range recs {
			recs[i].Base, recs[i].Pending, recs[i].Meta = nil, 1, tidemark.Meta{}
			ms[i] = tidemark.Mutation{Model: "post", UID: recs[i].UID, Op: tidemark.Create, Data: recs[i].Row, Stamp: 5}
		}
		err := s.Update(context.Background(), func(tx tidemark.StoreTx) error {
			if err := tx.Enqueue(ms); err != nil {
				return err
			}
			return tx.Put("post", recs)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, pending := range []int{10, many} {
		b.Run(fmt.Sprint(pending), func(b *testing.B) {
			s := benchStore(b, "NORMAL")
			recs := records(ps)
			for page := range slices.Chunk(recs[:pending], 10_000) {
				create(b, s, page)
			}
			fillStore(b, s, recs[pending:many], 10_000) // as many rows in both cases
			b.ResetTimer()
			start, i := processorTime(), 0
			for ; b.Loop(); i++ {
				create(b, s, recs[many+i%30_000:][:1])
			}
			b.ReportMetric(float64((processorTime()-start).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}
