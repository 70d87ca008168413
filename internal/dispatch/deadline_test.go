package dispatch

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Sleeps that are on time end the wait. One that is late begins the count anew, and the longest wait ends it all the same.
func TestAwaitCalm(t *testing.T) {
	const may, longest = 3, 100
	on := func(n int) []time.Duration { return slices.Repeat([]time.Duration{1}, n) }
	late := []time.Duration{4}
	for _, row := range []struct {
		name   string
		sleeps []time.Duration // how long each takes
		slept  int             // after how many the wait ends
	}{
		{"calm", on(12), 10},
		{"hardly calm", slices.Repeat([]time.Duration{3}, 12), 10},
		{"late once", slices.Concat(on(9), late, on(12)), 20},
		{"late from time to time", slices.Concat(late, on(2), late, on(5), late, on(12)), 20},
		{"always late", slices.Repeat(late, 30), 25},
		{"late for longer than the longest wait", []time.Duration{1, 1000, 1}, 2},
		{"never calm for long", slices.Repeat(slices.Concat(on(6), late), 12), 70},
	} {
		slept := 0
		assert.True(t, awaitCalm(func() (time.Duration, bool) {
			slept++
			return row.sleeps[slept-1], true
		}, may, longest), row.name)
		assert.Equal(t, row.slept, slept, row.name)
	}
	assert.False(t, awaitCalm(func() (time.Duration, bool) { return 0, false }, may, longest), "it was called off")
}

// In a calm process a wait ends after its timeout and not later, and at most a sixteenth of it earlier, together with those that
// began a little before.
func TestDeadlines(t *testing.T) {
	for _, timeout := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			d := newDeadlines(timeout)
			seen := map[*deadline]bool{}
			for range 200 {
				var ticket Ticket
				ticket.begin(0)
				begun := time.Now()
				d.add(&ticket)
				seen[d.current.Load()] = true
				go func() {
					<-ticket.done
					took := time.Since(begun)
					assert.LessOrEqual(t, took, timeout)
					assert.Greater(t, took, timeout-timeout/16)
					assert.True(t, ticket.in(expired))
				}()
				time.Sleep(timeout / 100)
			}
			time.Sleep(timeout)
			assert.LessOrEqual(t, len(seen), 200/6)
		})
	}
}

func newDeadlines(timeout time.Duration) *deadlines {
	start := time.Now()
	return &deadlines{timeout: timeout, now: func() time.Duration { return time.Since(start) }}
}

// A deadline ends the use of a ticket that it was given, and not the next one. Where nobody waits it does not sleep.
func TestDeadlineOfAnEarlierUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeadlines(160 * time.Millisecond)
		var ticket Ticket
		ticket.begin(0)
		d.add(&ticket)
		first := d.current.Load()
		require.True(t, ticket.send())
		require.True(t, ticket.answer(nil))
		<-ticket.done
		time.Sleep(100 * time.Millisecond)
		ticket.begin(0)
		second := time.Now()
		d.add(&ticket)
		time.Sleep(50*time.Millisecond + 1) // when the first timer has fired
		synctest.Wait()
		assert.True(t, first.passed, "nobody waits")
		<-ticket.done
		assert.Equal(t, 160*time.Millisecond, time.Since(second))
	})
}

// A wait that is added when its deadline has passed gets another.
func TestDeadlineThatHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeadlines(160 * time.Millisecond)
		passed := &deadline{passed: true}
		d.current.Store(passed)
		var ticket Ticket
		ticket.begin(0)
		d.add(&ticket)
		assert.NotSame(t, passed, d.current.Load())
		<-ticket.done
		assert.Equal(t, int64(160), d.now().Milliseconds())
	})
}

func TestAfterIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deadlines{timeout: 100 * time.Millisecond}
		cancel := make(chan struct{})
		d.after(50*time.Millisecond, cancel, never, func() { t.Error("called") })
		time.Sleep(50*time.Millisecond - 1) // when it looks whether this process can listen
		close(cancel)
		time.Sleep(time.Second)
	})
}

// A caller waits for the timeout where Redis says nothing, and its question counts as one that Redis did not decide.
func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if isCall(words) {
			<-release
		}
		return send()
	}, func(c *Config[*question]) { c.Timeout = 20 * time.Millisecond })
	err := d.Do(context.Background(), d.about("a"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.EqualError(t, err, "no answer within 20ms")
	assert.EqualValues(t, 1, d.timeouts.Load())
	d.eventually(func() bool { return len(d.changed()) == 2 })
	assert.Equal(t, []change{{Closed, HalfOpen}, {HalfOpen, Closed}}, d.changed(), "the probe is answered")
	close(release)
	assert.Equal(t, d.prefix+"a", <-d.late)
}
