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
	closing context.Context // then ticks are short

	mu      sync.Mutex
	running bool
	heard   time.Duration // for how long this process was able to listen
	ticked  time.Duration // when the last tick ended
	fresh   []wait        // those that have begun since
	alarms  []*alarm
}

const (
	// ticks is how many ticks a timeout has. A wait may end two of them too early, but never too late.
	ticks = 32
	// tickLate is how late a tick may end in a process that is able to listen.
	tickLate = 2 * time.Millisecond
	// maxLateness is for how many timeouts, at most, a wait goes on in a process that is not.
	maxLateness = 20
)

// span is some time in which this process is able to listen.
type span struct {
	after time.Duration // so much
	set   time.Duration // from then on
	heard time.Duration // what the clock had heard by then
}

// over reports whether a span has passed.
func (c *clock) over(a span, now time.Duration) bool {
	return c.heard-a.heard+c.tick() > a.after || now-a.set > a.after+maxLateness*c.timeout
}

// alarm is a function that the clock calls after a span, unless it is moot by then.
type alarm struct {
	span
	moot func() bool
	f    func()
}

// round is the waits that have begun during a tick.
type round struct {
	span
	waits []wait
}

// wait is a use of a ticket.
type wait struct {
	ticket *Ticket
	use    uint64
}

func (w wait) over() bool { return !w.ticket.pending(w.use) }

func (c *clock) tick() time.Duration { return c.timeout / ticks }

// add has the wait for a ticket end after the timeout.
func (c *clock) add(t *Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	c.fresh = append(c.fresh, wait{t, t.use()})
}

// call calls f after a time, unless it is moot by then.
func (c *clock) call(after time.Duration, moot func() bool, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run()
	now := c.now()
	c.alarms = append(c.alarms, &alarm{span{after, now, c.heard + min(now-c.ticked, c.tick())}, moot, f})
}

// run starts the clock if it stands still. It is locked.
func (c *clock) run() {
	if !c.running {
		c.running, c.ticked = true, c.now()
		go c.advance()
	}
}

// advance ticks until there is no more to wait for.
func (c *clock) advance() {
	timer := time.NewTimer(c.tick())
	defer timer.Stop()
	var began []wait
	var rounds, spare []*round // with waits, and for reuse
	for {
		select {
		case <-timer.C:
		case <-c.closing.Done():
			time.Sleep(min(c.tick(), time.Millisecond))
		}
		runtime.Gosched()
		c.mu.Lock()
		now := c.now()
		if took := now - c.ticked; took <= c.tick()+tickLate {
			c.heard += took
		}
		c.ticked = now
		began, c.fresh = c.fresh, began[:0]
		c.alarms = slices.DeleteFunc(c.alarms, func(a *alarm) bool {
			switch {
			case a.moot():
				return true
			case c.over(a.span, now):
				go a.f() // which may log, and so take a while
				return true
			}
			return false
		})
		c.mu.Unlock()

		// Most waits are over before the tick is.
		if began = slices.DeleteFunc(began, wait.over); len(began) > 0 {
			if len(spare) == 0 {
				spare = append(spare, new(round))
			}
			last := len(spare) - 1
			r := spare[last]
			spare = spare[:last]
			// If the tick took longer, the waits that began at its end have had nothing of it.
			r.span = span{c.timeout, now - c.tick(), c.heard - c.tick()}
			r.waits = append(r.waits, began...)
			rounds = append(rounds, r)
			clear(began)
		}
		rounds = slices.DeleteFunc(rounds, func(r *round) bool {
			if c.over(r.span, now) {
				for _, w := range r.waits {
					w.ticket.expire(w.use)
				}
			}
			if r.waits = slices.DeleteFunc(r.waits, wait.over); len(r.waits) > 0 {
				return false
			}
			spare = append(spare, r)
			return true
		})

		c.mu.Lock()
		c.running = len(rounds)+len(c.fresh)+len(c.alarms) > 0
		running := c.running
		c.mu.Unlock()
		if !running {
			return
		}
		timer.Reset(c.tick())
	}
}
