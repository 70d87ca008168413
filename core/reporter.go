package core

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/exactlimit/exactlimit/internal/dispatch"
)

// reporter reports in the log that Redis does not decide, and that it decides again, for all circuit breakers together. It
// keeps apart outages, in which Redis does not answer, and rejections, in which it answers with an error, since the one has
// another cause than the other and must not hide it. It also keeps the times for the metrics.
type reporter struct {
	log *slog.Logger

	mu                  sync.Mutex
	outages, rejections reports
	open                int           // circuit breakers
	since               time.Duration // when the first of them opened, on the clock of redisLogs.now
	before              time.Duration // how long there was an open one until then
}

// reports is the reports of one kind.
type reports struct {
	last time.Duration // 0 if there was none
	told bool          // there is one about the breakers that are open
}

// quietFor is how long at least there is no other report of the same kind.
const quietFor = 10 * time.Second

// due reports whether to write a report now.
func (r *reports) due(now time.Duration) bool {
	if r.last > 0 && now-r.last < quietFor {
		return false
	}
	r.last = max(now, 1)
	return true
}

// undecided is called when a caller gets no decision because of an error.
func (r *reporter) undecided(err error, now time.Duration) {
	if code := dispatch.Code(err); code != "" {
		r.rejected(code, now)
		return
	}
	// A single call may be late or come at the wrong time. This is no outage unless it opens a breaker.
	own := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, dispatch.ErrClosed) || errors.Is(err, dispatch.ErrQueueFull)
	r.mu.Lock()
	due := (!own || r.open > 0) && !r.outages.told && r.outages.due(now)
	r.outages.told = r.open > 0 && (r.outages.told || due)
	r.mu.Unlock()
	if due {
		r.log.Warn("exactlimit: Redis does not answer; requests are decided without it", slog.Any("error", unquoted(err)))
	}
}

// rejected is undecided for an error of the server. It is reported by its code alone, because its text may name keys.
func (r *reporter) rejected(code string, now time.Duration) {
	r.mu.Lock()
	due := r.rejections.due(now)
	r.rejections.told = r.open > 0
	r.mu.Unlock()
	if due {
		r.log.Warn("exactlimit: Redis rejects calls; requests are decided without it", slog.String("error", code))
	}
}

// changed is called when a circuit breaker has changed.
func (r *reporter) changed(from, to dispatch.State, since, now time.Duration, cause error) {
	switch {
	case to == dispatch.Open:
		r.mu.Lock()
		if r.open++; r.open == 1 {
			r.since = since
		}
		r.mu.Unlock()
		r.undecided(cause, now)
	case from == dispatch.Open:
		r.closed(now)
	}
}

// closed is called when an open breaker has closed.
func (r *reporter) closed(now time.Duration) {
	r.mu.Lock()
	after, told := now-r.since, false
	if r.open--; r.open == 0 {
		r.before += after
		told = r.outages.told || r.rejections.told
		r.outages.told, r.rejections.told = false, false
	}
	r.mu.Unlock()
	if told {
		r.log.Info("exactlimit: Redis decides again", slog.Duration("after", after))
	}
}

// measure returns how many breakers are open now, and how long there was an open one.
func (r *reporter) measure(now time.Duration) (open int, total time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	total = r.before
	if r.open > 0 {
		total += now - r.since
	}
	return r.open, total
}
