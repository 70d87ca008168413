package dispatch

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// clock measures the time in which this process is able to listen to Redis, and ends the waits that have reached the
// timeout by that measure.
//
// The reason is that a busy process must not take its own lateness for an outage of Redis. If more goroutines can run
// than there are processors, a reply may be in the socket's buffer for a long time before the goroutines that deliver
// it have run. So a wait ends once this process was able to listen for the timeout, and after 20 more timeouts at the
// latest.
//
// The clock advances in ticks. A tick is a short sleep, and then a turn of the scheduler, in which the goroutines
// that were ready before run. A tick that takes too long does not count. Waits that begin in the same tick end
// together, so that one timer is enough for all. The clock stops when it has no alarms but empty ones, and starts
// again with the next wait.
type clock struct {
	timeout time.Duration
	now     func() time.Duration
	closing context.Context // once it has ended, the clock does not run for alarms that have nothing to do

	mu      sync.Mutex
	running bool
	heard   time.Duration // the total time in which this process was able to listen
	ticked  time.Duration // when the last tick ended
	alarms  []*alarm
	fresh   *alarm   // for the waits that begin in this tick
	spare   []*alarm // for reuse
}

const (
	// ticks is how many ticks the timeout has. By the clock, a wait ends at most two ticks before the timeout, and at
	// most tickLate after it.
	ticks = 32
	// tickLate is how much longer than it should a tick may take in a process that is able to listen.
	tickLate = 2 * time.Millisecond
	// maxLateness is how many timeouts later than it should a wait may end in a process that is not able to listen.
	maxLateness = 20
)

// alarm ends waits, or calls a function, once this process was able to listen for some time.
type alarm struct {
	after time.Duration // for how long
	set   time.Duration // when the alarm was set, by clock.now
	heard time.Duration // clock.heard at that time
	waits []wait
	f     func()
	moot  func() bool // reports whether f need not be called any more
}

// wait is the wait of a caller: one use of a ticket.
type wait struct {
	ticket *Ticket
	use    uint64
}

func (c *clock) tick() time.Duration { return c.timeout / ticks }

// add lets the current wait for a ticket end after the timeout.
func (c *clock) add(t *Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	c.fresh.waits = append(c.fresh.waits, wait{t, t.use()})
}

// call lets f be called after a time in which this process was able to listen, unless moot reports true by then.
func (c *clock) call(after time.Duration, moot func() bool, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	now := c.now()
	heard := c.heard + min(now-c.ticked, c.tick())
	c.alarms = append(c.alarms, &alarm{after: after, set: now, heard: heard, moot: moot, f: f})
}

// run starts the clock if it does not run. The clock must be locked.
func (c *clock) run() {
	if !c.running {
		c.running, c.ticked = true, c.now()
		c.begin()
		go c.advance()
	}
}

// begin begins a tick, with an alarm for the waits that begin in it. The clock must be locked.
func (c *clock) begin() {
	if len(c.spare) == 0 {
		c.spare = append(c.spare, &alarm{after: c.timeout})
	}
	last := len(c.spare) - 1
	c.fresh, c.spare = c.spare[last], c.spare[:last]
	c.fresh.set, c.fresh.heard, c.fresh.waits = c.ticked, c.heard, c.fresh.waits[:0]
	c.alarms = append(c.alarms, c.fresh)
}

// advance runs the clock until it stops.
func (c *clock) advance() {
	timer := time.NewTimer(c.tick())
	defer timer.Stop()
	var due []*alarm
	for {
		select {
		case <-timer.C:
		case <-c.closing.Done():
			time.Sleep(min(c.tick(), time.Millisecond))
		}
		runtime.Gosched()
		due = due[:0]
		c.mu.Lock()
		now := c.now()
		if took := now - c.ticked; took <= c.tick()+tickLate {
			c.heard += took
		}
		c.ticked = now
		empty := true
		c.alarms = slices.DeleteFunc(c.alarms, func(a *alarm) bool {
			switch {
			case c.heard-a.heard+c.tick() > a.after || now-a.set > a.after+maxLateness*c.timeout:
				due = append(due, a)
				return true
			case c.closing.Err() != nil && a.idle():
				return true
			}
			empty = empty && a.f == nil && len(a.waits) == 0
			return false
		})
		c.running = !empty
		if empty {
			c.alarms = nil
		} else {
			c.begin()
		}
		c.mu.Unlock()
		for _, a := range due {
			a.ring()
		}
		if empty {
			return
		}
		c.mu.Lock()
		for _, a := range due {
			if clear(a.waits); a.f == nil {
				c.spare = append(c.spare, a)
			}
		}
		c.mu.Unlock()
		timer.Reset(c.tick())
	}
}

// idle reports whether the alarm has nothing to do any more.
func (a *alarm) idle() bool {
	if a.f != nil {
		return a.moot()
	}
	return !slices.ContainsFunc(a.waits, func(w wait) bool { return w.ticket.pending(w.use) })
}

// ring ends the waits, and calls the function.
func (a *alarm) ring() {
	for _, w := range a.waits {
		w.ticket.expire(w.use)
	}
	if a.f != nil && !a.moot() {
		a.f()
	}
}
