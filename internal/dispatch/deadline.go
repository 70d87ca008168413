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
// proves nothing until the process was able to listen: the wait ends when ten short sleeps in a row were on time, and after
// twenty timeouts at the latest.
type deadlines struct {
	timeout time.Duration
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
	length := min(calmSleep, wait/(2*calmSleeps))
	sleep := func() (took time.Duration, ok bool) {
		begun := time.Now()
		select {
		case <-cancel:
			return 0, false
		case <-time.After(length):
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
