package dispatch

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// clocked is a clock of the tests. While it is late, each tick of 5 ms takes 15.
type clocked struct {
	clock
	late  atomic.Bool
	stall func(time.Duration) // lets time pass in which nothing runs
}

func newClocked(t *testing.T, timeout time.Duration) *clocked {
	start, lost := time.Now(), time.Duration(0)
	c := &clocked{}
	closing, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	c.stall = func(d time.Duration) { lost += d }
	c.clock = clock{timeout: timeout, closing: closing, now: func() time.Duration {
		if c.late.Load() {
			lost += 10 * time.Millisecond
		}
		return time.Since(start) + lost
	}}
	return c
}

func (c *clocked) wait() *Future {
	t := new(Future)
	t.begin(0)
	c.expireAfterTimeout(t)
	return t
}

// In a calm process a wait ends after its timeout and not later, and at most a sixteenth of it earlier.
func TestClock(t *testing.T) {
	for _, timeout := range []time.Duration{
		time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond, time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClocked(t, timeout)
			var all sync.WaitGroup
			for range 200 {
				begun := time.Now()
				ticket := c.wait()
				all.Go(func() {
					<-ticket.done
					took := time.Since(begun)
					assert.LessOrEqual(t, took, timeout)
					assert.GreaterOrEqual(t, took, timeout-timeout/16)
					assert.True(t, ticket.is(expired))
				})
				time.Sleep(timeout / 100)
			}
			all.Wait()
			time.Sleep(timeout)
			synctest.Wait()
			assert.False(t, c.running)
			assert.Empty(t, c.alarms)
		})
	}
}

// Time in which this process cannot listen does not count, up to a limit.
func TestLateness(t *testing.T) {
	const ms, timeout = time.Millisecond, 160 * time.Millisecond
	for name, row := range map[string]struct {
		calm, late time.Duration // for so long, in turn
		want       time.Duration // in ticks of 5 ms
	}{
		"calm":                       {time.Hour, 0, 160 * ms},
		"late at first":              {0, 500 * ms, 660 * ms},
		"late for a moment":          {100 * ms, 50 * ms, 210 * ms},
		"late when it would be over": {140 * ms, 300 * ms, 460 * ms},
		"always late":                {0, time.Hour, (1 + maxLateness) * timeout / 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClocked(t, timeout)
			begun, ticket := time.Now(), c.wait()
			go func() {
				time.Sleep(row.calm)
				c.late.Store(true)
				time.Sleep(row.late)
				c.late.Store(false)
			}()
			<-ticket.done
			assert.InDelta(t, row.want.Seconds(), time.Since(begun).Seconds(), 0.016, name)
			time.Sleep(3 * time.Hour) // until nothing runs any more
		})
	}
}

// A wait that begins at the end of a tick that took long has had nothing of it.
func TestWaitsBeginInALateTick(t *testing.T) {
	const ms = time.Millisecond
	for _, row := range []struct{ timeout, late time.Duration }{
		{ms, 10 * ms},                      // longer than a tick that counts
		{ms, ms},                           // a tick that counts, and is longer than the timeout
		{100 * ms, 10 * time.Second},       // past the hard limit of what began with the tick
		{100 * ms, time.Minute},            //
		{time.Minute, 30 * 60 * 1000 * ms}, //
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClocked(t, row.timeout)
			first := c.wait() // starts the clock
			c.stall(row.late)
			begun, ticket := time.Now(), c.wait()
			<-ticket.done
			assert.GreaterOrEqual(t, time.Since(begun), row.timeout-row.timeout/16, "%+v", row)
			<-first.done
		})
	}
}

// The clock keeps what still waits, and not what waited during the whole timeout. It stands still soon after nobody
// waits.
func TestClockKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClocked(t, time.Minute)
		held := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, hung, ticket := held(), c.wait(), new(Future)
		for range 20 {
			for range 100_000 {
				ticket.begin(0)
				c.expireAfterTimeout(ticket)
				ticket.send()
				ticket.answer(nil)
				<-ticket.done
			}
			time.Sleep(2 * time.Second)
		}
		assert.Less(t, held(), before+10<<20) // two ticks have 1.6 MB each
		assert.True(t, hung.is(waiting))
		<-hung.done
		ticket.begin(0)
		c.expireAfterTimeout(ticket)
		ticket.leave()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.False(t, c.running)
		runtime.KeepAlive(c)
	})
}

// What the clock calls may take its time.
func TestAlarmsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClocked(t, 100*time.Millisecond)
		c.afterFunc(10*time.Millisecond, func() bool { return false }, func() { time.Sleep(time.Hour) })
		begun, ticket := time.Now(), c.wait()
		<-ticket.done
		assert.LessOrEqual(t, time.Since(begun), 100*time.Millisecond)
		time.Sleep(time.Hour)
	})
}

// A wait that is over is not ended again, when the ticket has been used again.
func TestEarlierUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClocked(t, 160*time.Millisecond)
		ticket := c.wait()
		require.True(t, ticket.send())
		require.True(t, ticket.answer(nil))
		<-ticket.done
		time.Sleep(100 * time.Millisecond)
		ticket.begin(0)
		c.expireAfterTimeout(ticket)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		assert.True(t, ticket.is(waiting))
		time.Sleep(60 * time.Millisecond)
		synctest.Wait()
		assert.True(t, ticket.is(expired))
	})
}

// An alarm with nothing to do does not ring, and does not keep the clock of a Dispatcher that is closed.
func TestIdleAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClocked(t, time.Hour)
		closing, stop := context.WithCancel(context.Background())
		c.closing = closing
		c.afterFunc(time.Minute, func() bool { return true }, func() { t.Error("rang") })
		rang := false
		c.afterFunc(2*time.Minute, func() bool { return rang }, func() { rang = true })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		assert.True(t, rang)
		c.afterFunc(time.Hour, func() bool { return true }, nil)
		stop()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.False(t, c.running)
	})
}

// A caller waits for the timeout where Redis says nothing, and its question counts as one that Redis did not decide.
func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	d := start(t, redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		<-release
		return send()
	}), func(c *Config[*question]) { c.Timeout = 20 * time.Millisecond })
	err := d.Do(context.Background(), d.about("a"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.EqualError(t, err, "no answer within 20ms")
	assert.EqualValues(t, 1, d.timeouts.Load())
	d.eventually(func() bool { return len(d.changed()) == 2 })
	assert.Equal(t, []change{{Closed, HalfOpen}, {HalfOpen, Closed}}, d.changed(), "the probe is answered")
	close(release)
	assert.Equal(t, d.prefix+"a", <-d.late)
}

// The clock is closed when it has stopped and the functions of its alarms have returned.
func TestCloseWaitsForAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClocked(t, 100*time.Millisecond)
		var done atomic.Bool
		c.afterFunc(50*time.Millisecond, func() bool { return false }, func() {
			time.Sleep(time.Second)
			done.Store(true)
		})
		time.Sleep(60 * time.Millisecond)
		c.close()
		assert.True(t, done.Load())
		assert.False(t, c.running)
		c.wait() // of a caller that came too late: its question is answered by the link that is closed
		assert.False(t, c.running)
	})
}
