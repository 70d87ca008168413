package core

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/exactlimit/exactlimit/internal/dispatch"
)

// reporter logs when Redis stops deciding requests, and when it decides again, for all circuit breakers together.
//
// There are two kinds of failures: in an outage Redis does not answer, and in a rejection it answers with an error.
// They have different causes, so they are logged separately, and messages about one do not delay messages about the
// other.
//
// The reporter also measures the duration of outages, for the metrics.
type reporter struct {
	logger *slog.Logger

	mu                  sync.Mutex
	outages, rejections reportState
	openBreakers        int           // how many circuit breakers are open
	openSince           time.Duration // when the incident of the first open one began, by redisLogs.now
	earlierOutages      time.Duration // how long at least one breaker was open, before openSince
}

// reportState is the state of the log messages about one kind of failure.
type reportState struct {
	lastReport time.Duration // when the last message was written, or 0
	reported   bool          // a failure was logged, but not yet its end
}

// quietFor is the shortest time between two messages about the same kind of failure.
const quietFor = 10 * time.Second

// due reports whether a message may be written now. If so, it counts as written.
func (r *reportState) due(now time.Duration) bool {
	if r.lastReport > 0 && now-r.lastReport < quietFor {
		return false
	}
	r.lastReport = max(now, 1)
	return true
}

// undecided is called when a request gets no decision from Redis because of an error.
func (r *reporter) undecided(err error, now time.Duration) {
	if code := dispatch.Code(err); code != "" {
		r.rejected(code, now)
		return
	}
	// These errors may concern a single call. They are an outage only if a breaker opens.
	ofOneCall := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, dispatch.ErrClosed) || errors.Is(err, dispatch.ErrQueueFull)
	r.mu.Lock()
	due := (!ofOneCall || r.openBreakers > 0) && !r.outages.reported && r.outages.due(now)
	r.outages.reported = r.openBreakers > 0 && (r.outages.reported || due)
	r.mu.Unlock()
	if due {
		r.logger.Warn("exactlimit: Redis does not answer; requests are decided without it",
			slog.Any("error", redacted(err)))
	}
}

// rejected does what undecided does, for an error reply of Redis. It logs only the code, because the text may contain
// keys.
func (r *reporter) rejected(code string, now time.Duration) {
	r.mu.Lock()
	due := r.rejections.due(now)
	r.rejections.reported = r.rejections.reported || due // even if the breaker opens later
	r.mu.Unlock()
	if due {
		r.logger.Warn("exactlimit: Redis rejects calls; requests are decided without it", slog.String("error", code))
	}
}

// changed is called when a circuit breaker has changed its state. The incident began at since, and cause is the last
// error.
func (r *reporter) changed(from, to dispatch.State, since, now time.Duration, cause error) {
	switch {
	case to == dispatch.Open:
		r.mu.Lock()
		if r.openBreakers++; r.openBreakers == 1 {
			r.openSince = since
		}
		// Callers may have got the error of this incident, and reported it, before this.
		reported := r.outages.lastReport > 0 && r.outages.lastReport >= since
		r.outages.reported = r.outages.reported || reported
		r.mu.Unlock()
		r.undecided(cause, now)
	case from == dispatch.Open:
		r.closed(now)
	}
}

// closed is called when a breaker that was open has closed.
func (r *reporter) closed(now time.Duration) {
	r.mu.Lock()
	after, reported := now-r.openSince, false
	if r.openBreakers--; r.openBreakers == 0 {
		r.earlierOutages += after
		reported = r.outages.reported || r.rejections.reported
		r.outages.reported, r.rejections.reported = false, false
	}
	r.mu.Unlock()
	if reported {
		r.logger.Info("exactlimit: Redis decides again", slog.Duration("after", after))
	}
}

// measure returns how many breakers are open now, and for how long, in total, at least one was open.
func (r *reporter) measure(now time.Duration) (openBreakers int, outage time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	outage = r.earlierOutages
	if r.openBreakers > 0 {
		outage += now - r.openSince
	}
	return r.openBreakers, outage
}
