package core

import (
	"log/slog"
	"sync"
	"time"
)

// outage tells the owner of a service when Redis is away and when it is back: for all links together, and not more often than
// every quietFor, however often it comes and goes.
type outage struct {
	log *slog.Logger

	mu      sync.Mutex
	open    int           // links
	before  time.Duration // of outages that are over
	since   time.Duration // on the clock of sender.now
	told    time.Duration // when it was last told of
	telling bool          // the outage that is has been told of
	untold  int           // how many have not been, since one was
}

const quietFor = 10 * time.Second

func (o *outage) begin(t *trouble) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open++; o.open > 1 {
		return
	}
	o.since = t.since
	if o.told > 0 && t.since-o.told < quietFor {
		o.untold++
		return
	}
	o.tell(t, t.since)
}

// goesOn tells of an outage that was not told of when it began, once it is time to.
func (o *outage) goesOn(t *trouble, now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open > 0 && !o.telling && now-o.told >= quietFor {
		o.untold--
		o.tell(t, now)
	}
}

func (o *outage) tell(t *trouble, now time.Duration) {
	o.told, o.telling = now, true
	attributes := []any{slog.Any("error", unquoted(t.reason()))}
	if o.untold > 0 {
		attributes = append(attributes, slog.Int("times before", o.untold))
	}
	o.untold = 0
	o.log.Warn("exactlimit: Redis does not answer; requests are decided without it", attributes...)
}

func (o *outage) end(now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open--; o.open > 0 {
		return
	}
	o.before += now - o.since
	if !o.telling {
		return
	}
	o.telling = false
	o.log.Info("exactlimit: Redis answers again", slog.Duration("after", now-o.since))
}

// measure returns how many links are open now, and how long there was any.
func (o *outage) measure(now time.Duration) (links int, total time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	total = o.before
	if o.open > 0 {
		total += now - o.since
	}
	return o.open, total
}
