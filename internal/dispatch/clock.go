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
	waits   []wait // that began during this tick
}

const (
	// ticks is how many ticks a timeout has. A wait may end two of them too early, but never too late.
	ticks = 32
	// tickLate is how late a tick may end in a process that is able to listen.
	tickLate = 2 * time.Millisecond
	// maxLateness is for how many timeouts, at most, a wait goes on in a process that is not.
	maxLateness = 20
)

// alarm is what the clock does after a time in which this process was able to listen.
type alarm struct {
	after time.Duration // so much
	set   time.Duration // when it was set
	heard time.Duration // what the clock had heard by then
	idle  func() bool   // reports whether there is nothing to do any more
	ring  func()
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
	c.waits = append(c.waits, wait{t, t.use()})
}

// set sets an alarm.
func (c *clock) set(after time.Duration, idle func() bool, ring func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	c.alarms = append(c.alarms, &alarm{after, c.now(), c.heard + min(c.now()-c.ticked, c.tick()), idle, ring})
}

// run starts the clock if it stands still. It is locked.
func (c *clock) run() {
	if !c.running {
		c.running, c.ticked = true, c.now()
		go func() {
			for c.advance() {
			}
		}()
	}
}

// advance ends a tick, and reports false if there is no more to wait for.
func (c *clock) advance() bool {
	select {
	case <-time.After(c.tick()):
	case <-c.closing.Done():
		time.Sleep(min(c.tick(), time.Millisecond))
	}
	runtime.Gosched()
	c.mu.Lock()
	if waits := c.waits; len(waits) > 0 {
		c.alarms = append(c.alarms, &alarm{c.timeout, c.ticked, c.heard, idle(waits), expire(waits)})
		c.waits = make([]wait, 0, len(waits))
	}
	now := c.now()
	if took := now - c.ticked; took <= c.tick()+tickLate {
		c.heard += took
	}
	c.ticked = now
	var due []*alarm
	c.alarms = slices.DeleteFunc(c.alarms, func(a *alarm) bool {
		if c.heard-a.heard+c.tick() > a.after || now-a.set > a.after+maxLateness*c.timeout {
			due = append(due, a)
			return true
		}
		return c.closing.Err() != nil && a.idle()
	})
	c.running = len(c.alarms) > 0
	running := c.running
	c.mu.Unlock()
	for _, a := range due {
		if !a.idle() {
			a.ring()
		}
	}
	return running
}

func idle(waits []wait) func() bool {
	return func() bool {
		return !slices.ContainsFunc(waits, func(w wait) bool { return w.ticket.pending(w.use) })
	}
}

func expire(waits []wait) func() {
	return func() {
		for _, w := range waits {
			w.ticket.expire(w.use)
		}
	}
}
