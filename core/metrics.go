package core

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/exactlimit/exactlimit/internal/dispatch"
)

// WithMeterProvider has the Limiter measure itself, by OpenTelemetry. Without it nothing is measured.
//
//	exactlimit.decisions              {decision}  by exactlimit.limit, exactlimit.outcome and exactlimit.source
//	exactlimit.decisions.near_limit   {decision}  admissions that leave less than a fifth of Max, by exactlimit.limit
//	exactlimit.exempt                 {request}   that an adapter let pass without asking, as its option Exempt says
//	exactlimit.redis.call.duration    s           of each call to Redis, by error.type if it failed: the error's code, or "connection"
//	exactlimit.redis.call.requests    {request}   how many requests each call asked for
//	exactlimit.redis.timeouts         {request}   that Redis did not decide within their time
//	exactlimit.denial_cache.size      {denial}    remembered now
//	exactlimit.outage.links           {link}      to which no calls go now; one for Redis, one for each master of a cluster
//	exactlimit.outage.duration        s           how long there was any
//
// The outcome is allowed, denied, or dry_run for a denial that a dry run let pass. The source is that of Source.String; a hit
// of the denial cache is a decision whose source it is. A call under several limits counts for the one that decided. No
// attribute ever holds a key. Names of limits beyond the first thousand are counted as "other". The limiter's own goroutines
// use the provider too, so if it panics, the process ends.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(c *config) error {
		if provider == nil {
			return invalid("nil meter provider: leave the option out to measure nothing")
		}
		c.meter = provider.Meter("github.com/exactlimit/exactlimit/core")
		return nil
	}
}

// metrics is what a Limiter has counted, for who comes to collect it, and what it tells of each call to Redis. A nil one does
// nothing.
type metrics struct {
	limits   *xsync.Map[string, *counts]
	exempt   metric.Int64Counter
	duration metric.Float64Histogram
	requests metric.Int64Histogram
	timeouts metric.Int64Counter
	watch    func(redis func() redisState) error // begins to observe
	stop     metric.Registration
}

// redisState is what is observed of the way to Redis.
type redisState struct {
	denials int           // in the cache
	open    int           // circuit breakers
	away    time.Duration // how long there was an open one
}

const (
	maxCounted = 1000
	outcomes   = 3
	sources    = int(SourceFailOpen) + 1
)

// counts is of one limit. A decision adds to one cell, which is spread over the processors and there when it is first needed.
type counts struct {
	cells [outcomes][sources]atomic.Pointer[xsync.Counter]
	sets  [outcomes][sources]metric.ObserveOption
	near  *xsync.Counter
	limit metric.ObserveOption
}

// newMetrics returns metrics that observe nothing yet, of a Limiter with Redis or without.
func newMetrics(meter metric.Meter, onRedis bool) (*metrics, error) {
	m := &metrics{limits: xsync.NewMap[string, *counts]()}
	var failed error
	note := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	counter := func(name, unit, about string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about))
		note(err)
		return c
	}
	gauge := func(name, unit, about string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
		note(err)
		return g
	}
	decisions := counter("exactlimit.decisions", "{decision}", "Decisions on requests.")
	near := counter("exactlimit.decisions.near_limit", "{decision}", "Admissions that leave less than a fifth of the limit.")
	instruments := []metric.Observable{decisions, near}
	var err error
	m.exempt, err = meter.Int64Counter("exactlimit.exempt", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that passed without a decision, as they are exempt."))
	note(err)
	var denials, open metric.Int64ObservableGauge
	var away metric.Float64ObservableCounter
	if onRedis {
		m.duration, err = meter.Float64Histogram("exactlimit.redis.call.duration", metric.WithUnit("s"),
			metric.WithDescription("Time that calls to Redis took."),
			metric.WithExplicitBucketBoundaries(.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1))
		note(err)
		m.requests, err = meter.Int64Histogram("exactlimit.redis.call.requests", metric.WithUnit("{request}"),
			metric.WithDescription("Requests that a call to Redis asked for."), metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000))
		note(err)
		m.timeouts, err = meter.Int64Counter("exactlimit.redis.timeouts", metric.WithUnit("{request}"),
			metric.WithDescription("Requests that Redis did not decide within their time."))
		note(err)
		denials = gauge("exactlimit.denial_cache.size", "{denial}", "Denials that are remembered.")
		open = gauge("exactlimit.outage.links", "{link}", "Links to Redis to which no calls go.")
		away, err = meter.Float64ObservableCounter("exactlimit.outage.duration", metric.WithUnit("s"),
			metric.WithDescription("Time in which there was a link to which no calls went."))
		note(err)
		instruments = append(instruments, denials, open, away)
	}
	if failed != nil {
		return nil, failed
	}
	m.watch = func(redis func() redisState) (err error) {
		m.stop, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			m.limits.Range(func(_ string, c *counts) bool {
				for outcome := range c.cells {
					for source := range c.cells[outcome] {
						if cell := c.cells[outcome][source].Load(); cell != nil {
							o.ObserveInt64(decisions, cell.Value(), c.sets[outcome][source])
						}
					}
				}
				o.ObserveInt64(near, c.near.Value(), c.limit)
				return true
			})
			if onRedis {
				state := redis()
				o.ObserveInt64(denials, int64(state.denials))
				o.ObserveInt64(open, int64(state.open))
				o.ObserveFloat64(away, state.away.Seconds())
			}
			return nil
		}, instruments...)
		return err
	}
	return m, nil
}

// CountExempt enters a request that passes without a decision in the metric exactlimit.exempt. It is for adapters, which
// know that a request is exempt before they know its limits.
func (l *Limiter) CountExempt(ctx context.Context) {
	if l.metrics != nil {
		l.metrics.exempt.Add(ctx, 1)
	}
}

// count enters a decision.
func (m *metrics) count(d *Decision) {
	c, found := m.limits.Load(d.Limit.Name)
	if !found {
		c = m.open(d.Limit.Name)
	}
	outcome := 0
	switch {
	case d.DryRun:
		outcome = 2
	case !d.Allowed:
		outcome = 1
	}
	at := &c.cells[outcome][d.Source]
	cell := at.Load()
	if cell == nil {
		at.CompareAndSwap(nil, xsync.NewCounter())
		cell = at.Load()
	}
	cell.Inc()
	if outcome == 0 && d.Source != SourceFailOpen && d.Remaining < (d.Limit.Max+4)/5 { // which is below a fifth
		c.near.Inc()
	}
}

// open makes the counts of a limit that is new.
func (m *metrics) open(name string) *counts {
	if m.limits.Size() >= maxCounted {
		name = "other"
	}
	c, _ := m.limits.LoadOrCompute(name, func() (*counts, bool) {
		limit := attribute.String("exactlimit.limit", name)
		c := &counts{near: xsync.NewCounter(), limit: metric.WithAttributeSet(attribute.NewSet(limit))}
		for outcome, text := range [outcomes]string{"allowed", "denied", "dry_run"} {
			for source := range sources {
				c.sets[outcome][source] = metric.WithAttributeSet(attribute.NewSet(limit,
					attribute.String("exactlimit.outcome", text), attribute.String("exactlimit.source", Source(source).String())))
			}
		}
		return c, false
	})
	return c
}

var succeeded = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet())}

// called records a call to Redis.
func (m *metrics) called(requests int, took time.Duration, err error) {
	how := succeeded
	if err != nil {
		kind := dispatch.Code(err)
		if kind == "" {
			kind = "connection"
		}
		how = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("error.type", kind)))}
	}
	m.duration.Record(context.Background(), took.Seconds(), how...)
	m.requests.Record(context.Background(), int64(requests), succeeded...)
}

// timedOut records a request that Redis did not decide within its time.
func (m *metrics) timedOut() { m.timeouts.Add(context.Background(), 1) }

func (m *metrics) close() {
	if m != nil && m.stop != nil {
		m.stop.Unregister()
	}
}
