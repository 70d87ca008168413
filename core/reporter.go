package core

import (
	"log/slog"
	"sync"
	"time"

	"github.com/exactlimit/exactlimit/internal/dispatch"
)

// outage reports in the log when Redis stops deciding and when it decides again: for all circuit breakers together, and at
// most every quietFor, however often they open and close. It also keeps the times for the metrics.
type outage struct {
	log *slog.Logger

	mu       sync.Mutex
	open     int           // breakers
	before   time.Duration // how long outages that are over have lasted
	since    time.Duration // when the present one began, on the clock of redisLogs.now
	logged   time.Duration // when the last warning was written, 0 if none was
	reported bool          // the present outage is in the log
	silent   int           // outages that are not, since the last warning
}

const quietFor = 10 * time.Second

// changed is called when a circuit breaker has changed, and again with each probe that fails while it is open.
func (o *outage) changed(from, to dispatch.State, since, now time.Duration, cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case to == dispatch.Open && from != dispatch.Open:
		if o.open++; o.open > 1 {
			return
		}
		o.since = since
		if o.silent++; o.quiet(now) {
			return
		}
		o.warn(cause, now)
	case to == dispatch.Open && !o.reported && !o.quiet(now):
		o.warn(cause, now)
	case to == dispatch.Closed && from == dispatch.Open:
		if o.open--; o.open > 0 {
			return
		}
		o.before += now - o.since
		if o.reported {
			o.reported = false
			o.log.Info("exactlimit: Redis decides again", slog.Duration("after", now-o.since))
		}
	}
}

// rejected reports an error of the server by its code alone, since its text may name keys.
func (o *outage) rejected(code string, now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.quiet(now) {
		o.logged = now
		o.log.Warn("exactlimit: Redis rejects calls; requests are decided without it", slog.String("error", code))
	}
}

func (o *outage) quiet(now time.Duration) bool { return o.logged > 0 && now-o.logged < quietFor }

func (o *outage) warn(cause error, now time.Duration) {
	o.logged, o.reported, o.silent = now, true, o.silent-1
	attributes := []any{slog.Any("error", unquoted(cause))}
	if code := dispatch.Code(cause); code != "" {
		attributes = []any{slog.String("error", code)}
	}
	if o.silent > 0 {
		attributes = append(attributes, slog.Int("unreported", o.silent))
		o.silent = 0
	}
	what := "exactlimit: Redis does not answer; requests are decided without it"
	if dispatch.Code(cause) != "" {
		what = "exactlimit: Redis rejects calls; requests are decided without it"
	}
	o.log.Warn(what, attributes...)
}

// measure returns how many breakers are open now, and how long there was any.
func (o *outage) measure(now time.Duration) (open int, total time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	total = o.before
	if o.open > 0 {
		total += now - o.since
	}
	return o.open, total
}
