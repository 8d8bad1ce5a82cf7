package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/tidemark-sync/tidemark/client"
)

// soak has devices write, come and go for a time, and looks at ten moments at what server and
// clients hold: it should not grow. At the end all devices have the same rows.
func (b *bench) soak(ctx context.Context, engine string) error {
	age := (b.load.soak / 20).String() // so that what recovery keeps is full at the first moment
	return b.alone(ctx, engine, 1000, func(s *process) error {
		devices, err := b.openDevices(ctx, s)
		defer func() {
			for _, d := range devices {
				d.close()
			}
		}()
		if err != nil {
			return err
		}
		busy, cancel := context.WithTimeout(ctx, b.load.soak)
		defer cancel()
		errs := make([]error, len(devices)+1)
		var wg sync.WaitGroup
		for i, d := range devices {
			wg.Go(func() { errs[i] = d.bustle(ctx, busy, uint64(i)) })
		}
		errs[len(devices)] = b.lookOn(busy, engine, s)
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return b.agree(ctx, engine, devices)
	}, "127.0.0.1:0", age)
}

func (b *bench) openDevices(ctx context.Context, s *process) (devices []*device, err error) {
	for range b.load.devices {
		path, err := b.file("soak")
		if err != nil {
			return devices, err
		}
		d, err := openDevice(ctx, path, "FULL", s.address)
		if err != nil {
			return devices, err
		}
		devices = append(devices, d)
		if _, err := d.synchronised(ctx); err != nil {
			return devices, err
		}
	}
	return devices, nil
}

// bustle creates, changes and removes rows until busy is over, and is offline now and then.
func (d *device) bustle(ctx, busy context.Context, seed uint64) error {
	const most = 20 // rows of its own
	r := rand.New(rand.NewPCG(seed, 1))
	var own []string
	offline := false
	for busy.Err() == nil {
		var err error
		switch n := r.IntN(100); {
		case n < 4 || offline:
			if offline = !offline; offline {
				d.GoOffline()
			} else {
				d.GoOnline()
			}
		case len(own) > most || n < 15 && len(own) > 0:
			err = d.items.Remove(ctx, own[0])
			own = own[1:]
		case n < 40 || len(own) == 0:
			x := makeItems(1)[0]
			_, err = d.items.Create(ctx, x)
			own = append(own, x.UID)
		default:
			_, err = d.items.Update(ctx, own[r.IntN(len(own))], client.Patch{"title": fmt.Sprint("changed ", r.Int())})
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(r.IntN(100)) * time.Millisecond):
		case <-busy.Done():
		}
	}
	d.GoOnline()
	return nil
}

// lookOn looks at ten moments, evenly spread until busy is over, at what is held.
func (b *bench) lookOn(busy context.Context, engine string, s *process) error {
	const moments = 10
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "| soak, %s\t| server's heap\t| resident\t| goroutines\t| clients' heap\t| goroutines\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|\n", engine)
	began := time.Now()
	var heaps, routines []float64
	for i := range moments {
		select {
		case <-time.After(time.Until(began.Add(b.load.soak * time.Duration(i+1) / (moments + 1)))):
		case <-busy.Done():
		}
		m, err := s.memory()
		if err != nil {
			return err
		}
		var own runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&own)
		heaps, routines = append(heaps, mebibytes(m.Heap)), append(routines, float64(m.Goroutines))
		fmt.Fprintf(t, "| %s\t| %.2f MiB\t| %.1f MiB\t| %d\t| %.2f MiB\t| %d\t|\n", time.Since(began).Round(100*time.Millisecond),
			mebibytes(m.Heap), mebibytes(m.Resident), m.Goroutines, mebibytes(int64(own.HeapAlloc)), runtime.NumGoroutine())
	}
	half := len(heaps) / 2
	what := fmt.Sprintf("soak of %s, %d devices, %s: ", b.load.soak, b.load.devices, engine)
	b.report.line("load", what+"server's heap, second half by first", "", atMost(1.2)).add(median(heaps[half:]) / median(heaps[:half]))
	b.report.line("load", what+"goroutines, second half by first", "", atMost(1.2)).add(median(routines[half:]) / median(routines[:half]))
	return nil
}

// agree waits until all devices have the same rows.
func (b *bench) agree(ctx context.Context, engine string, devices []*device) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	for _, d := range devices {
		if err := d.Sync(ctx); err != nil {
			return err
		}
		if st := d.Status(); st.Rejected != 0 {
			fmt.Fprintf(os.Stderr, "\na device has %d rejections\n", st.Rejected)
		}
	}
	for {
		var rows []string
		for _, d := range devices {
			all, err := d.items.FindWhere(ctx, nil)
			if err != nil {
				return fmt.Errorf("the devices do not agree: %w", err)
			}
			text, err := json.Marshal(all)
			if err != nil {
				return err
			}
			rows = append(rows, string(text))
		}
		slices.Sort(rows)
		if len(slices.Compact(rows)) == 1 {
			what := fmt.Sprintf("soak of %s, %d devices, %s: ", b.load.soak, b.load.devices, engine)
			b.report.line("load", what+"then all agree after", "s", goal{}).add(time.Since(began).Seconds())
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}
