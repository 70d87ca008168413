package dispatch

import (
	"sync/atomic"
	"time"
)

// deadlines ends waits that take too long, without a timer for each: waits that begin within the same few milliseconds end
// together, and none later than its timeout.
//
// Lateness of this process is not silence of Redis. In a process that has more runnable goroutines than processors, a reply
// may be in the socket's buffer for a long time until the goroutines that hand it on have run. So a timeout that has passed
// proves nothing until the process was able to listen: the wait ends when three short sleeps in a row were on time, and after
// twenty timeouts at the latest.
type deadlines struct {
	timeout time.Duration
	current atomic.Pointer[deadline]
}

const (
	calmSleep  = time.Millisecond     // the longest of the short sleeps
	calmLate   = 2 * time.Millisecond // how late a sleep may end in a process that is able to listen
	calmSleeps = 3
	// maxLateness is how many timeouts, at most, a wait goes on in a process that is not.
	maxLateness = 20
)

// deadline is when some waits end.
type deadline struct {
	begun  time.Duration // on the clock of Dispatcher.now
	passed chan struct{} // closed then
}

// at returns the deadline of a wait that begins now.
func (d *deadlines) at(now time.Duration) *deadline {
	old := d.current.Load()
	if old != nil && now-old.begun < d.timeout/16 {
		return old
	}
	fresh := &deadline{begun: now, passed: make(chan struct{})}
	d.current.CompareAndSwap(old, fresh) // if another caller was faster, its deadline serves the next waits as well
	d.after(d.timeout, nil, func() { close(fresh.passed) })
	return fresh
}

// over reports whether the deadline has passed.
func (d *deadline) over() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}

// after calls f once so much time has passed in which this process was able to listen, unless cancel is closed before.
func (d *deadlines) after(wait time.Duration, cancel <-chan struct{}, f func()) *time.Timer {
	sleep := min(calmSleep, wait/8)
	return time.AfterFunc(wait-calmSleeps*sleep, func() {
		if awaitCalm(cancel, sleep, maxLateness*d.timeout) {
			f()
		}
	})
}

// awaitCalm returns true once this process is able to listen, or after the longest wait, and false when cancel is closed.
func awaitCalm(cancel <-chan struct{}, sleep, longest time.Duration) bool {
	begun := time.Now()
	last, calm := begun, 0
	for calm < calmSleeps && last.Sub(begun) < longest {
		select {
		case <-cancel:
			return false
		case <-time.After(sleep):
		}
		now := time.Now()
		if calm++; now.Sub(last) > sleep+calmLate {
			calm = 0
		}
		last = now
	}
	return true
}
