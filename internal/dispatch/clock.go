package dispatch

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// clock measures the time in which this process was able to listen to Redis, and ends waits that reach the timeout by
// this measure.
//
// Without it, a process that is short of processor time would take Redis for silent. If more goroutines can run than
// there are processors, a reply may stay in the socket's buffer for a long time before the goroutines that deliver it
// run. So a wait ends when this process was able to listen for as long as the timeout, and at the latest after 20 more
// timeouts.
//
// The clock advances in ticks. A tick is a short sleep, and then a turn of the scheduler, in which goroutines run that
// were already waiting to run. A tick that takes too long does not count. Waits that begin in the same tick end
// together, so one timer is enough for all of them. The clock stops soon after the last wait is over and the last alarm
// is done.
type clock struct {
	timeout time.Duration
	now     func() time.Duration
	closing context.Context // once it is cancelled, ticks are short

	mu         sync.Mutex
	closed     bool
	running    bool
	listened   time.Duration // the total time in which this process was able to listen
	lastTick   time.Duration // when the last tick ended, by now
	newWaits   []wait        // the waits that have begun since the last tick
	alarms     []*alarm
	background sync.WaitGroup // run, and the functions of alarms
}

const (
	// ticksPerTimeout is how many ticks the timeout has. By the clock, a wait ends at most two ticks before the
	// timeout, and at most maxTickDelay after it.
	ticksPerTimeout = 32
	// maxTickDelay is how late a tick may end in a process that is able to listen.
	maxTickDelay = 2 * time.Millisecond
	// maxLateness is how many timeouts later, at most, a wait ends in a process that is not able to listen.
	maxLateness = 20
)

// deadline is the time at which this process will have been able to listen for a given time since a start.
type deadline struct {
	after    time.Duration // the given time
	start    time.Duration // by clock.now
	listened time.Duration // clock.listened at the start
}

// reached reports whether a deadline has passed.
func (c *clock) reached(d deadline, now time.Duration) bool {
	return c.listened-d.listened+c.tick() > d.after || now-d.start > d.after+maxLateness*c.timeout
}

// alarm is a function that the clock calls at a deadline, unless cancelled reports true by then.
type alarm struct {
	deadline
	cancelled func() bool
	f         func()
}

// round is the waits that began in the same tick. They end together.
type round struct {
	deadline
	waits []wait
}

// wait is the wait of a caller: one use of a Future.
type wait struct {
	future *Future
	use    uint64
}

// over reports whether the caller no longer waits.
func (w wait) over() bool { return !w.future.pending(w.use) }

// tick returns the length of a tick.
func (c *clock) tick() time.Duration { return c.timeout / ticksPerTimeout }

// expireAfterTimeout ends the current wait for f when the timeout has passed.
func (c *clock) expireAfterTimeout(f *Future) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start()
	c.newWaits = append(c.newWaits, wait{f, f.use()})
}

// afterFunc calls f, in a new goroutine, when this process has been able to listen for the given time from now, unless
// cancelled reports true by then.
func (c *clock) afterFunc(after time.Duration, cancelled func() bool, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start()
	now := c.now()
	c.alarms = append(c.alarms, &alarm{deadline{after, now, c.listened + min(now-c.lastTick, c.tick())}, cancelled, f})
}

// start starts the clock if it is not running. The clock must be locked.
func (c *clock) start() {
	if !c.running && !c.closed {
		c.running, c.lastTick = true, c.now()
		c.background.Go(c.run)
	}
}

// close waits until the clock has stopped and the functions of its alarms have returned. All waits must be over.
func (c *clock) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.background.Wait()
}

// run runs the clock until there are no waits and no alarms.
func (c *clock) run() {
	timer := time.NewTimer(c.tick())
	defer timer.Stop()
	var began []wait
	var rounds, spare []*round // rounds with waits, and rounds for reuse
	for {
		select {
		case <-timer.C:
		case <-c.closing.Done():
			time.Sleep(min(c.tick(), time.Millisecond))
		}
		runtime.Gosched()
		c.mu.Lock()
		now := c.now()
		if took := now - c.lastTick; took <= c.tick()+maxTickDelay {
			c.listened += took
		}
		c.lastTick = now
		began, c.newWaits = c.newWaits, began[:0]
		c.alarms = slices.DeleteFunc(c.alarms, func(a *alarm) bool {
			switch {
			case a.cancelled():
				return true
			case c.reached(a.deadline, now):
				c.background.Go(a.f) // in a goroutine, because it may log and take a while
				return true
			}
			return false
		})
		c.mu.Unlock()

		// Most waits are over before the tick ends.
		if began = slices.DeleteFunc(began, wait.over); len(began) > 0 {
			if len(spare) == 0 {
				spare = append(spare, new(round))
			}
			last := len(spare) - 1
			r := spare[last]
			spare = spare[:last]
			// The waits may have begun at any time in the tick. They count as begun one tick before its end, however
			// long the tick took.
			r.deadline = deadline{c.timeout, now - c.tick(), c.listened - c.tick()}
			r.waits = append(r.waits, began...)
			rounds = append(rounds, r)
			clear(began)
		}
		rounds = slices.DeleteFunc(rounds, func(r *round) bool {
			if c.reached(r.deadline, now) {
				for _, w := range r.waits {
					w.future.expire(w.use)
				}
			}
			if r.waits = slices.DeleteFunc(r.waits, wait.over); len(r.waits) > 0 {
				return false
			}
			spare = append(spare, r)
			return true
		})

		c.mu.Lock()
		c.running = len(rounds)+len(c.newWaits)+len(c.alarms) > 0
		running := c.running
		c.mu.Unlock()
		if !running {
			return
		}
		timer.Reset(c.tick())
	}
}
