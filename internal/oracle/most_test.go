package oracle

import (
	"math/rand"
	"testing"
)

// Of all sets of spans, Most finds the one of the most units that fits into less than a window.
func TestMost(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for run := range 600 {
		spans, log := make([]Span, random.Intn(11)), Log{}
		for i := range spans {
			from, length := random.Int63n(30), random.Int63n(8)
			if run%2 == 0 {
				length = 0 // the moments are known
			}
			spans[i] = Span{from, from + length, random.Intn(4)}
			log.Admit(from, spans[i].Units)
		}
		window, want := 1+random.Int63n(15), 0
		for set := range 1 << len(spans) {
			units, first, last := 0, int64(1000), int64(-1)
			for i, s := range spans {
				if set>>i&1 == 1 {
					units, first, last = units+s.Units, min(first, s.From), max(last, s.To)
				}
			}
			if last-first < window {
				want = max(want, units)
			}
		}
		if got := Most(spans, window); got != want {
			t.Fatalf("Most(%v, %d) = %d, want %d", spans, window, got, want)
		}
		if got := log.Most(window); run%2 == 0 && got != want {
			t.Fatalf("Log.Most(%d) = %d, want %d of %v", window, got, want, spans)
		}
	}
}
