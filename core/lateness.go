package core

import "time"

// Lateness of this process is not silence of Redis. In a process that has more runnable goroutines than processors, a reply
// may wait for a long time in the socket's buffer until the goroutines that hand it on have had their turn. So a timer that
// fires proves nothing until the process was able to listen.
const (
	// calmSleep is how long one test sleeps, calmLate how much later than that it wakes in a busy process, and calmSleeps
	// how many tests in a row have to be in time.
	calmSleep, calmLate = time.Millisecond, 2 * time.Millisecond
	calmSleeps          = 3
	// maxLateness is for how many timeouts, at most, a busy process is waited for.
	maxLateness = 20
)

// awaitCalm returns once this process has been able to listen for a few milliseconds, and after the longest wait given at
// the latest. It returns early, and false, when done is closed.
func awaitCalm(done <-chan struct{}, longest time.Duration) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	begun := time.Now()
	for calm, last := 0, begun; calm < calmSleeps && last.Sub(begun) < longest; {
		timer.Reset(calmSleep)
		select {
		case <-done:
			return false
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(last) < calmSleep+calmLate {
			calm++
		} else {
			calm = 0
		}
		last = now
	}
	return true
}
