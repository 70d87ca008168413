package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/redis/rueidis"
)

// Sleeps that are on time end the wait. One that is late begins the count anew, and the longest wait ends it all the same.
func TestAwaitCalm(t *testing.T) {
	const may, longest = 3, 20
	for _, row := range []struct {
		name   string
		sleeps []time.Duration // how long each takes
		slept  int             // after how many the wait ends
	}{
		{"calm", []time.Duration{1, 1, 1, 1}, 3},
		{"hardly calm", []time.Duration{3, 3, 3, 3}, 3},
		{"late once", []time.Duration{1, 1, 4, 1, 1, 1, 1}, 6},
		{"late from time to time", []time.Duration{4, 1, 1, 4, 1, 4, 1, 1, 1, 1}, 9},
		{"always late", []time.Duration{4, 4, 4, 4, 4, 4, 4}, 5},
		{"late for longer than the longest wait", []time.Duration{1, 1000, 1}, 2},
		{"never calm for long", []time.Duration{1, 1, 4, 1, 1, 4, 1, 1, 4, 1, 1, 4}, 11},
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
			d, start := deadlines{timeout: timeout}, time.Now()
			seen := map[*deadline]bool{}
			for range 200 {
				begun := time.Now()
				deadline := d.at(time.Since(start))
				seen[deadline] = true
				assert.False(t, deadline.over())
				go func() {
					<-deadline.passed
					took := time.Since(begun)
					assert.LessOrEqual(t, took, timeout)
					assert.Greater(t, took, timeout-timeout/16)
					assert.True(t, deadline.over())
				}()
				time.Sleep(timeout / 100)
			}
			time.Sleep(timeout)
			assert.LessOrEqual(t, len(seen), 200/6)
		})
	}
}

func TestAfterIsCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deadlines{timeout: 100 * time.Millisecond}
		cancel := make(chan struct{})
		d.after(50*time.Millisecond, cancel, func() { t.Error("called") })
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
