package core

import "time"

// Lateness of this process is not silence of Redis. In a process that has more runnable goroutines than processors, a reply
// may wait for a long time in the socket's buffer until the goroutines that hand it on have had their turn. So a timer that
// fires proves nothing until the process was able to listen.
const (
	// calmSleep is how long one test sleeps at most, calmLate how late it may end in a process that is able to listen, and
	// calmSleeps how many tests in a row have to be in time. A starved process passes three of them by chance too often.
	calmSleep, calmLate = time.Millisecond, 2 * time.Millisecond
	calmSleeps          = 10
	// maxLateness is for how many timeouts, at most, a busy process is waited for.
	maxLateness = 20
)

// afterListening calls f when so much time has passed in which this process was able to listen, unless done is closed before.
func afterListening(wait, timeout time.Duration, done <-chan struct{}, f func()) *time.Timer {
	sleep := min(calmSleep, wait/16)
	return time.AfterFunc(wait-calmSleeps*sleep, func() {
		if awaitCalm(done, sleep, maxLateness*timeout) {
			f()
		}
	})
}

// awaitCalm returns true once this process has been able to listen for the length of a few sleeps, and after the longest wait
// at the latest. It returns false when done is closed.
func awaitCalm(done <-chan struct{}, sleep, longest time.Duration) bool {
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	begun := time.Now()
	for calm, last := 0, begun; calm < calmSleeps && last.Sub(begun) < longest; timer.Reset(sleep) {
		select {
		case <-done:
			return false
		case <-timer.C:
		}
		now := time.Now()
		if calm++; now.Sub(last) > sleep+calmLate {
			calm = 0
		}
		last = now
	}
	return true
}
