package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDecodeReply(t *testing.T) {
	one, two := PerSecond("one", 3), PerMinute("two", 5)

	r, err := decodeInteger(2, 1, 1, one)
	require.NoError(t, err)
	d := r.decision(0, 1, []Limit{one})
	assert.Equal(t, Decision{Allowed: true, Source: SourceRedis, State: State{Limit: one, Remaining: 2, ResetAfter: time.Second}}, d)
	for _, remaining := range []int64{-1, 0, 3, 1 << 62} {
		_, err := decodeInteger(remaining, 1, 1, one)
		assert.Error(t, err, remaining)
	}

	r, err = decodeList([]int64{0, -2, 17, 900, 1, 0, 60}, 1, 1, []Limit{one, two})
	require.NoError(t, err)
	d = r.decision(0, 1, []Limit{one, two})
	assert.False(t, d.Allowed)
	assert.Equal(t, State{Limit: one, RetryAfter: 17 * time.Microsecond, ResetAfter: 900 * time.Microsecond}, d.State)
	assert.Equal(t, []State{d.State, {Limit: two, Remaining: 1, ResetAfter: 60 * time.Microsecond}}, d.States())
	for _, reply := range [][]int64{nil, {1}, {1, 0, 0}, {1, 0, 0, 0, 0}, {2, 0, 0, 0}, {-1, 0, 0, 0}, {1, 4, 0, 0}, {1, 0, -1, 0}, {1, 0, 0, -1}, {0, 0, 9_300_000_000_000_000, 0}, {0, 0, 0, 9_300_000_000_000_000}} {
		_, err := decodeList(reply, 1, 1, []Limit{one})
		assert.Error(t, err, "%d", reply)
	}
}

// Whatever a server that is not ours replies, a decision that comes of it makes sense.
func FuzzDecodeReply(f *testing.F) {
	f.Add(int64(1), int64(2), int64(0), int64(1000), int64(0), int64(17), int64(17), 7, 1)
	f.Add(int64(0), int64(-2), int64(5), int64(1000), int64(3), int64(0), int64(0), 7, 3)
	f.Add(int64(0), int64(0), int64(9_300_000_000_000_000), int64(9_300_000_000_000_000), int64(0), int64(0), int64(0), 4, 1)
	f.Add(int64(1), int64(-1), int64(-1), int64(-1), int64(1<<62), int64(1<<62), int64(1<<62), 4, 2)
	f.Fuzz(func(t *testing.T, a, b, c, d, e, f, g int64, n, requests int) {
		reply := []int64{a, b, c, d, e, f, g}
		reply = reply[:min(max(n, 0), len(reply))]
		for _, limits := range [][]Limit{{PerSecond("one", 3)}, {PerSecond("one", 3), PerMinute("two", 5)}} {
			requests = min(max(requests, 1), 3)
			decoded, err := decodeList(reply, requests, 1, limits)
			if err != nil {
				continue
			}
			for place := range requests {
				states := decoded.decision(place, 1, limits).States()
				if len(states) != len(limits) {
					t.Fatalf("%d gives %d states", reply, len(states))
				}
				for i, state := range states {
					if state.Limit != limits[i] || state.Remaining < 0 || state.Remaining > limits[i].Max || state.RetryAfter < 0 || state.ResetAfter < 0 {
						t.Fatalf("%d gives %+v to request %d of %d", reply, state, place, requests)
					}
				}
			}
		}
	})
}
