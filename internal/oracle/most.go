package oracle

import (
	"cmp"
	"slices"
)

// Span is units that were admitted at one moment between two, both included. The moments are those of any clock, in
// any unit.
type Span struct {
	From, To int64
	Units    int
}

// Most returns the most units that surely lie within one window, at whatever moment of its span each was admitted.
// Admissions that are a whole window apart are not in the same one.
func Most(spans []Span, window int64) int {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	most := 0
	for i, first := range sorted { // the fullest window can be moved until it begins with a span
		units := 0
		for _, s := range sorted[i:] {
			if s.From-first.From >= window {
				break
			}
			if s.To-first.From < window {
				units += s.Units
			}
		}
		most = max(most, units)
	}
	return most
}
