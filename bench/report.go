package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// report collects what was measured.
type report struct{ lines []*line }

// line is one figure of a workload, with the samples of the same on bare parts if there are any.
type line struct {
	workload, name, unit string
	goal                 goal
	samples, limit       []float64
}

// goal is what a figure should be; the zero goal is none.
type goal struct {
	bound float64
	ratio bool // it is about the quotient of the figure and its limit
	least bool // it should be at least bound, otherwise at most
}

func atMost(x float64) goal       { return goal{bound: x} }
func atLeast(x float64) goal      { return goal{bound: x, least: true} }
func ratioAtMost(x float64) goal  { return goal{bound: x, ratio: true} }
func ratioAtLeast(x float64) goal { return goal{bound: x, ratio: true, least: true} }

// line returns the line of that name, which is made when there is none.
func (r *report) line(workload, name, unit string, g goal) *line {
	if l := r.find(name); l != nil {
		return l
	}
	l := &line{workload: workload, name: name, unit: unit, goal: g}
	r.lines = append(r.lines, l)
	return l
}

func (r *report) find(name string) *line {
	for _, l := range r.lines {
		if l.name == name {
			return l
		}
	}
	return nil
}

func (l *line) add(x float64)             { l.samples = append(l.samples, x) }
func (l *line) addMillis(d time.Duration) { l.add(millis(d)) }
func millis(d time.Duration) float64      { return float64(d.Nanoseconds()) / 1e6 }
func mebibytes(n int64) float64           { return float64(n) / (1 << 20) }

func median(samples []float64) float64 { return quantile(samples, 0.5) }

// quantile returns the sample below which the share q of all lies.
func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[int(q*float64(len(s)-1))]
}

func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "|\t\t| median\t| least to greatest\t| limit\t| ratio\t| target\t| met\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, l := range r.lines {
		if len(l.samples) > 0 {
			l.print(t)
		}
	}
	t.Flush()
}

func (l *line) print(w io.Writer) {
	m := median(l.samples)
	limit, ratio := "", ""
	if len(l.limit) > 0 {
		limit, ratio = number(median(l.limit)), number(m/median(l.limit))
	}
	target, met := l.goal.judge(m, l.limit)
	fmt.Fprintf(w, "| %s\t| %s\t| %s %s\t| %s to %s\t| %s\t| %s\t| %s\t| %s\t|\n", l.workload, l.name,
		number(m), l.unit, number(slices.Min(l.samples)), number(slices.Max(l.samples)), limit, ratio, target, met)
}

// judge says what the goal is and whether it is met.
func (g goal) judge(figure float64, limit []float64) (target, met string) {
	if g.bound == 0 {
		return "", ""
	}
	target = number(g.bound)
	if g.ratio {
		target += "x"
		if len(limit) == 0 {
			return target, "?"
		}
		figure /= median(limit)
	}
	ok := figure <= g.bound
	if g.least {
		ok = figure >= g.bound
		target = ">= " + target
	} else {
		target = "<= " + target
	}
	if ok {
		return target, "yes"
	}
	return target, "no"
}

// number writes x with three significant digits.
func number(x float64) string {
	if x >= 100 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}
