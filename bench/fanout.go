package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// fanOut is W4: one write to many sessions, until the last has it; and a message of about
// the same length through melody alone.
func (b *bench) fanOut(ctx context.Context) error {
	for _, n := range b.sessions {
		for range b.n {
			limit, idle, err := fanOutBare(n)
			if err != nil {
				return err
			}
			for _, way := range []fanning{byChannel, byScope} {
				if err := b.fanOutBy(ctx, way, n, limit, idle); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fanning is a way to be told of changes.
type fanning struct {
	name  string
	goal  float64
	join  func(*process, []string) (*member, error)
	alone bool // the writer is none of the members: it is not told of its own write
}

var (
	byChannel = fanning{goal: 1.5, join: joinChannel}
	byScope   = fanning{name: " by scope", goal: 1.2, join: joinScopes, alone: true}
	bare      = fanning{join: joinMelody}
)

func fanOutName(sessions int, way fanning, engine string) string {
	return "one write to " + grouped(sessions) + " sessions" + way.name + ", " + engine
}

func idleName(sessions int, way fanning) string {
	return "idle connection" + way.name + ", of " + grouped(sessions)
}

func fanOutBare(n int) (latency, idle float64, err error) {
	s, err := start(melodic)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	if latency, idle, err = fanOutOnce(s, n, bare); err != nil {
		err = fmt.Errorf("melody: %w", err)
	}
	return latency, idle, err
}

func (b *bench) fanOutBy(ctx context.Context, way fanning, n int, limit, idleLimit float64) error {
	idles := b.report.line("W4", idleName(n, way), "KiB", atMost(30))
	idles.limit = append(idles.limit, idleLimit)
	return b.each(ctx, scoped, 100, func(engine string, s *process) error {
		var g goal
		if engine == "postgres" && n >= 1000 {
			g = ratioAtMost(way.goal)
		}
		l := b.report.line("W4", fanOutName(n, way, engine), "ms", g)
		l.limit = append(l.limit, limit)
		took, idle, err := fanOutOnce(s, n, way)
		if err == nil {
			l.add(took)
			idles.add(idle)
		}
		return err
	})
}

// fanOutOnce returns the median of how many milliseconds a write takes to all of n sessions, and the KiB
// that one takes while nothing happens.
func fanOutOnce(s *process, n int, way fanning) (latency, idle float64, err error) {
	const writes, warm = 20, 3
	before, err := s.memory()
	if err != nil {
		return 0, 0, err
	}
	members, err := gather(s, n, func(int) []string { return []string{audienceList} }, way.join)
	defer func() { dismiss(members) }()
	if err != nil {
		return 0, 0, err
	}
	after, err := s.memory()
	if err != nil {
		return 0, 0, err
	}
	idle = float64(after.Resident-before.Resident) / 1024 / float64(n)
	all := watchAll(members)
	writers := members
	if way.alone {
		w, err := joinScopes(s, nil)
		if err != nil {
			return 0, 0, err
		}
		defer dismiss([]*member{w})
		go all.watch(w, false) // ends with its connection
		writers = []*member{w}
	}
	var latencies []float64
	for i := range writes + warm {
		w := writers[i*37%len(writers)]
		took, err := all.write(w, w.frame())
		if err != nil {
			return 0, 0, err
		}
		if i >= warm {
			latencies = append(latencies, took)
		}
		time.Sleep(10 * time.Millisecond) // so that one write's echo is not the next one's noise
	}
	return median(latencies), idle, nil
}

// gather has n members join, each with its lists.
func gather(s *process, n int, lists func(i int) []string, join func(*process, []string) (*member, error)) ([]*member, error) {
	members := make([]*member, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range members {
		slots <- struct{}{}
		wg.Go(func() {
			members[i], errs[i] = join(s, lists(i))
			<-slots
		})
	}
	wg.Wait()
	return members, errors.Join(errs...)
}

func dismiss(members []*member) {
	for _, m := range members {
		if m != nil {
			_ = m.ws.Close()
		}
	}
}
