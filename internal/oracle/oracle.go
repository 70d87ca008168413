// Package oracle is the sliding window log in the most naive form there is, to check the real ones against. It shares no
// code with them, keeps everything, and looks through all of it each time.
package oracle

import "slices"

// Log is every unit ever admitted, as its moment in microseconds.
type Log struct{ Admitted []int64 }

// Count returns how many were admitted in (now-window, now].
func (l *Log) Count(now, window int64) int {
	n := 0
	for _, at := range l.Admitted {
		if at > now-window && at <= now {
			n++
		}
	}
	return n
}

// Fits says whether cost more units may be admitted now.
func (l *Log) Fits(now, window int64, cost, max int) bool {
	return l.Count(now, window)+cost <= max
}

// Admit enters cost units.
func (l *Log) Admit(now int64, cost int) {
	for range cost {
		l.Admitted = append(l.Admitted, now)
	}
}

// Retry returns how long it takes until cost units fit, looking at each moment at which something leaves.
func (l *Log) Retry(now, window int64, cost, max int) int64 {
	if l.Fits(now, window, cost, max) {
		return 0
	}
	first := int64(-1)
	for _, at := range l.Admitted {
		leaves := at + window
		if leaves > now && l.Fits(leaves, window, cost, max) && (first < 0 || leaves-now < first) {
			first = leaves - now
		}
	}
	return first
}

// Reset returns how long it takes until nothing is left.
func (l *Log) Reset(now, window int64) int64 {
	last := int64(0)
	for _, at := range l.Admitted {
		last = max(last, at+window-now)
	}
	return last
}

// Most returns the most that any window holds. The fullest can be slid until it ends at an admission.
func (l *Log) Most(window int64) int {
	admitted := slices.Sorted(slices.Values(l.Admitted))
	most, first := 0, 0
	for i, at := range admitted {
		for admitted[first] <= at-window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
