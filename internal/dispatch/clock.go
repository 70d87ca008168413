package dispatch

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// clock measures the time in which this process is able to listen, and ends waits that have lasted too long by it.
//
// Lateness of this process is not silence of Redis. In a process that has more runnable goroutines than processors, a
// reply may be in the socket's buffer for a long time until the goroutines that hand it on have run. So a wait for Redis
// is over when this process has been able to listen for the timeout, and after twenty more timeouts at the latest.
//
// The clock advances in ticks. Each is a short sleep, and then a turn behind all goroutines that can run. Ticks that take
// too long do not count. Waits that begin during one tick end together, so the clock needs one timer for all. It stands
// still while nobody waits.
type clock struct {
	timeout time.Duration
	now     func() time.Duration
	closing context.Context // then alarms that are idle no longer keep it running

	mu      sync.Mutex
	running bool
	heard   time.Duration // for how long this process was able to listen
	ticked  time.Duration // when the last tick ended
	alarms  []*alarm
	fresh   *alarm   // of the waits that begin during this tick
	spare   []*alarm // of waits, for reuse
}

const (
	// ticks is how many ticks a timeout has. A wait may end two of them too early, but never too late.
	ticks = 32
	// tickLate is how late a tick may end in a process that is able to listen.
	tickLate = 2 * time.Millisecond
	// maxLateness is for how many timeouts, at most, a wait goes on in a process that is not.
	maxLateness = 20
)

// alarm is what the clock does after a time in which this process was able to listen: it ends waits, or calls a function.
type alarm struct {
	after time.Duration // so much
	set   time.Duration // when it was set
	heard time.Duration // what the clock had heard by then
	waits []wait
	f     func()
	moot  func() bool // reports whether f has nothing to do any more
}

// wait is a use of a ticket.
type wait struct {
	ticket *Ticket
	use    uint64
}

func (c *clock) tick() time.Duration { return c.timeout / ticks }

// add has the wait for a ticket end after the timeout.
func (c *clock) add(t *Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	c.fresh.waits = append(c.fresh.waits, wait{t, t.use()})
}

// call calls f after a time, unless it is moot by then.
func (c *clock) call(after time.Duration, moot func() bool, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	now := c.now()
	c.alarms = append(c.alarms, &alarm{after: after, set: now, heard: c.heard + min(now-c.ticked, c.tick()), moot: moot, f: f})
}

// run starts the clock if it stands still. It is locked.
func (c *clock) run() {
	if !c.running {
		c.running, c.ticked = true, c.now()
		c.begin()
		go c.advance()
	}
}

// begin begins a tick. The clock is locked.
func (c *clock) begin() {
	if len(c.spare) == 0 {
		c.spare = append(c.spare, &alarm{after: c.timeout})
	}
	last := len(c.spare) - 1
	c.fresh, c.spare = c.spare[last], c.spare[:last]
	c.fresh.set, c.fresh.heard, c.fresh.waits = c.ticked, c.heard, c.fresh.waits[:0]
	c.alarms = append(c.alarms, c.fresh)
}

// advance ticks until there is no more to wait for.
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
		// Of a tick that took longer, the waits that began at its end have had nothing.
		c.fresh.set, c.fresh.heard = now-c.tick(), c.heard-c.tick()
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

// idle reports whether there is nothing to do any more.
func (a *alarm) idle() bool {
	if a.f != nil {
		return a.moot()
	}
	return !slices.ContainsFunc(a.waits, func(w wait) bool { return w.ticket.pending(w.use) })
}

func (a *alarm) ring() {
	for _, w := range a.waits {
		w.ticket.expire(w.use)
	}
	if a.f != nil && !a.moot() {
		a.f()
	}
}
