package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const (
	second = int64(time.Second / time.Microsecond)
	minute = 60 * second
)

// Each row happens at its moment, in microseconds. The rows of one key share a log of three in ten seconds.
func TestOneLimit(t *testing.T) {
	three := Limit{Name: "search", Max: 3, Window: 10 * time.Second}
	const yes, no = true, false
	timeline := []struct {
		at      int64
		key     string
		cost    int
		allowed bool
		remain  int
		retry   int64
		reset   int64
	}{
		{0, "ann", 1, yes, 2, 0, 10 * second},
		{0, "ann", 1, yes, 1, 0, 10 * second}, // twice in one microsecond is two
		{4 * second, "ann", 1, yes, 0, 6 * second, 10 * second},
		{4 * second, "ann", 1, no, 0, 6 * second, 10 * second},
		{10*second - 1, "ann", 1, no, 0, 1, 4*second + 1},            // a microsecond too early
		{10*second - 1, "ann", 3, no, 0, 4*second + 1, 4*second + 1}, // three have to leave
		{10 * second, "ann", 1, yes, 1, 0, 10 * second},              // exactly then
		{14*second - 1, "ann", 2, no, 1, 1, 6*second + 1},            // one fits, two do not
		{14 * second, "ann", 2, yes, 0, 10 * second, 10 * second},    // the next two: not when one leaves at 20 s
		{20 * second, "ann", 1, yes, 0, 4 * second, 10 * second},
		{40 * second, "ann", 3, yes, 0, 10 * second, 10 * second}, // long idle, all is back
		{50*second - 1, "ann", 1, no, 0, 1, 1},
		{50 * second, "ann", 3, yes, 0, 10 * second, 10 * second},
		{50 * second, "bob", 1, yes, 2, 0, 10 * second},          // another key, another log
		{50 * second, "bob", 3, no, 2, 10 * second, 10 * second}, // all of a cost or nothing
		{50 * second, "bob", 2, yes, 0, 10 * second, 10 * second},
		{50 * second, "bob", 1, no, 0, 10 * second, 10 * second}, // full within one microsecond
		{60*second + 1, "bob", 2, yes, 1, 10 * second, 10 * second},
	}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			for _, row := range timeline {
				peeked := store.peek(t, row.at, row.key, three)
				got := store.allow(t, row.at, row.key, row.cost, three)
				want := Decision{Allowed: row.allowed, Source: got.Source, State: State{
					Limit:      three,
					Remaining:  row.remain,
					RetryAfter: time.Duration(row.retry) * time.Microsecond,
					ResetAfter: time.Duration(row.reset) * time.Microsecond,
				}}
				want.receipt = got.receipt // what was decided, and not where
				assert.Equal(t, want, got, "%+v", row)
				if row.cost == 1 {
					assert.Equal(t, row.allowed, peeked.Allowed, "peek at %+v", row)
				}
			}
		})
	}
}

func TestSeveralLimitsAreAllOrNothing(t *testing.T) {
	burst := Limit{Name: "burst", Max: 2, Window: time.Second}
	sustained := Limit{Name: "sustained", Max: 3, Window: time.Minute}
	timeline := []struct {
		at        int64
		allowed   bool
		burst     int // remaining
		sustained int
		binding   string
		retry     int64
	}{
		{at: 0, allowed: true, burst: 1, sustained: 2, binding: "burst"},
		{at: 0, allowed: true, burst: 0, sustained: 1, binding: "burst", retry: second},
		{at: 0, burst: 0, sustained: 1, binding: "burst", retry: second}, // denied by burst: sustained keeps its unit
		{at: second, allowed: true, burst: 1, sustained: 0, binding: "sustained", retry: minute - second},
		{at: second, burst: 1, sustained: 0, binding: "sustained", retry: minute - second}, // and the other way round
		{at: minute - 1, burst: 2, sustained: 0, binding: "sustained", retry: 1},
		{at: minute, allowed: true, burst: 1, sustained: 1, binding: "burst"},
	}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			for _, row := range timeline {
				got := store.allow(t, row.at, "ann", 1, burst, sustained)
				states := got.States()
				assert.Equal(t, row.allowed, got.Allowed, "%+v", row)
				assert.Equal(t, []Limit{burst, sustained}, []Limit{states[0].Limit, states[1].Limit})
				assert.Equal(t, []int{row.burst, row.sustained},
					[]int{states[0].Remaining, states[1].Remaining}, "%+v", row)
				assert.Equal(t, row.binding, got.Limit.Name, "%+v", row)
				assert.Equal(t, time.Duration(row.retry)*time.Microsecond, got.RetryAfter, "%+v", row)
			}
		})
	}
}

func TestChangedLimits(t *testing.T) {
	limit := func(max int, window time.Duration) Limit { return Limit{Name: "plan", Max: max, Window: window} }
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				assert.True(t, store.allow(t, 0, "ann", 1, limit(5, time.Minute)).Allowed)
			}
			assert.False(t, store.allow(t, second, "ann", 1, limit(5, time.Minute)).Allowed)

			// Raised: there is room at once.
			assert.True(t, store.allow(t, second, "ann", 1, limit(6, time.Minute)).Allowed)

			// Lowered under what is there: nothing remains, and one unit needs all but one of the entries gone.
			lowered := store.allow(t, 2*second, "ann", 1, limit(2, time.Minute))
			assert.False(t, lowered.Allowed)
			assert.Equal(t, 0, lowered.Remaining)
			assert.Equal(t, 58*time.Second, lowered.RetryAfter)
			assert.True(t, store.allow(t, minute, "ann", 1, limit(2, time.Minute)).Allowed)

			// Another window is another log, and neither trims the other.
			assert.True(t, store.allow(t, minute, "ann", 1, limit(1, time.Second)).Allowed)
			assert.False(t, store.allow(t, minute+1, "ann", 1, limit(2, time.Minute)).Allowed)
		})
	}
}

func TestPeekAndReset(t *testing.T) {
	one, two := PerMinute("one", 1), PerMinute("two", 2)
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				d := store.peek(t, 0, "ann", one, two)
				assert.True(t, d.Allowed, "peeking charges nothing")
				assert.Equal(t, "one", d.Limit.Name)
				assert.Equal(t, State{Limit: two, Remaining: 2}, d.States()[1])
			}
			assert.True(t, store.allow(t, 0, "ann", 1, one, two).Allowed)
			d := store.peek(t, 5*second, "ann", one, two)
			assert.False(t, d.Allowed)
			assert.Equal(t, State{Limit: one, RetryAfter: 55 * time.Second, ResetAfter: 55 * time.Second}, d.State)
			assert.Equal(t, State{Limit: two, Remaining: 1, ResetAfter: 55 * time.Second}, d.States()[1])

			assert.True(t, store.allow(t, 0, "bob", 1, one).Allowed)
			store.reset(t, "ann", one)
			assert.True(t, store.peek(t, 5*second, "ann", one).Allowed)
			assert.Equal(t, 1, store.peek(t, 5*second, "ann", two).Remaining, "only what was named is reset")
			assert.False(t, store.peek(t, 5*second, "bob", one).Allowed, "and only that key's")

			// What has left the window is passed over, whether or not it has been removed.
			assert.Equal(t, State{Limit: two, Remaining: 2}, store.peek(t, minute, "ann", two).State)
		})
	}
}
