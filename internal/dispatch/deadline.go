package dispatch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// deadlines ends waits that take too long, without a timer for each: waits that begin within the same few milliseconds end
// together, and none later than its timeout.
//
// Lateness of this process is not silence of Redis. In a process that has more runnable goroutines than processors, a reply
// may be in the socket's buffer for a long time until the goroutines that hand it on have run. So a timeout that has passed
// proves nothing until the process was able to listen: the wait ends when ten short sleeps in a row were on time, and after
// twenty timeouts at the latest.
type deadlines struct {
	timeout time.Duration
	now     func() time.Duration // on the clock of the Dispatcher
	current atomic.Pointer[deadline]
}

const (
	calmSleep  = time.Millisecond     // the longest of the short sleeps
	calmLate   = 2 * time.Millisecond // how late a sleep may end in a process that is able to listen
	calmSleeps = 10
	// maxLateness is how many timeouts, at most, a wait goes on in a process that is not.
	maxLateness = 20
)

// deadline is when some waits end.
type deadline struct {
	begun time.Duration

	mu     sync.Mutex
	waits  []wait
	passed bool
}

// wait is a use of a ticket.
type wait struct {
	ticket *Ticket
	use    uint64
}

// add has the wait for a ticket end a timeout from now.
func (d *deadlines) add(t *Ticket) {
	w, now := wait{t, t.use()}, d.now()
	for {
		current := d.current.Load()
		if current != nil && now-current.begun < d.timeout/16 && current.add(w) {
			return
		}
		fresh := &deadline{begun: now, waits: make([]wait, 0, current.size())}
		if d.current.CompareAndSwap(current, fresh) {
			d.after(d.timeout, nil, fresh.idle, fresh.pass)
		}
	}
}

// size returns how many waits there are, which is about how many the next deadline will have.
func (d *deadline) size() int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.waits)
}

// add reports false if the deadline has passed.
func (d *deadline) add(w wait) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.passed {
		d.waits = append(d.waits, w)
	}
	return !d.passed
}

// idle reports whether all waits are over, and none can be added any more.
func (d *deadline) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waits {
		if w.ticket.pending(w.use) {
			return false
		}
	}
	d.passed, d.waits = true, nil
	return true
}

func (d *deadline) pass() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waits {
		w.ticket.expire(w.use)
	}
	d.passed, d.waits = true, nil
}

// after calls f once so much time has passed in which this process was able to listen, unless cancel is closed before, or idle
// says that f has nothing to do.
func (d *deadlines) after(wait time.Duration, cancel <-chan struct{}, idle func() bool, f func()) *time.Timer {
	length := min(calmSleep, wait/(2*calmSleeps))
	sleep := func() (took time.Duration, ok bool) {
		if idle() {
			return 0, false
		}
		begun := time.Now()
		select {
		case <-cancel:
			return 0, false
		case <-time.After(length):
			runtime.Gosched() // which waits behind all that can run, as a goroutine that has a reply to hand on does
			return time.Since(begun), true
		}
	}
	return time.AfterFunc(wait-calmSleeps*length, func() {
		if awaitCalm(sleep, length+calmLate, maxLateness*d.timeout) {
			f()
		}
	})
}

// awaitCalm sleeps until this process is able to listen, which it is when some sleeps in a row take no longer than they may, or
// until the longest wait is over. It returns false when sleep does.
func awaitCalm(sleep func() (took time.Duration, ok bool), may, longest time.Duration) bool {
	calm, slept := 0, time.Duration(0)
	for calm < calmSleeps && slept < longest {
		took, ok := sleep()
		if !ok {
			return false
		}
		slept += took
		if calm++; took > may {
			calm = 0
		}
	}
	return true
}
