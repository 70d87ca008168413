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

// WithMeterProvider makes the Limiter report metrics through an OpenTelemetry meter provider. By default nothing is
// measured.
//
//	exactlimit.decisions             {decision}  by exactlimit.limit, exactlimit.outcome and exactlimit.source
//	exactlimit.decisions.near_limit  {decision}  admissions that leave less than a fifth of Max, by exactlimit.limit
//	exactlimit.exempt                {request}   that adapters let pass without a decision, by their option Exempt
//	exactlimit.redis.call.duration   s           of each call; of failed calls by error.type: a code or "connection"
//	exactlimit.redis.call.requests   {request}   in each call
//	exactlimit.redis.timeouts        {request}   that Redis did not decide in time
//	exactlimit.redis.open_breakers   {breaker}   circuit breakers open now: one of Redis, or one of each master
//	exactlimit.denial_cache.size     {denial}    denials cached now
//	exactlimit.outage.duration       s           time in which a circuit breaker was open
//
// The outcome is allowed, denied, banned for a denial because of a ban, dry_run for a denial that a dry run let pass,
// or unavailable if Redis failed under FailClosed. The source is the text of Source.String, such as "denial-cache" for
// a denial without a call, and "none" if the outcome is unavailable. A call under several limits counts once, for the
// decisive limit, or for the first limit if the outcome is unavailable.
//
// The series of a limit appear with its first decision, and with counts of 0 for other outcomes. All other counts start
// at 0 when the Limiter is made. Names of limits beyond the first 190 are counted as "other". No attribute contains a
// key.
//
// Limiters may share a provider. Each metric is then their sum. A closed Limiter stays in the sum with what it has
// counted, so that no count falls. The Limiter's own goroutines use the provider too, so a panic of the provider ends
// the process.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(c *config) error {
		if provider == nil {
			return invalid("nil meter provider: leave the option out to measure nothing")
		}
		c.meter = provider.Meter("github.com/exactlimit/exactlimit/core")
		return nil
	}
}

// metrics holds what a Limiter and its views have counted, for the meter provider to collect, and records calls to
// Redis.
//
// Several Limiters may observe the same instruments. OpenTelemetry's SDK adds up what they observe for counters and
// UpDownCounters. For gauges it would keep only the last value, so there are none.
type metrics struct {
	limits   *xsync.Map[string, *counts] // by name
	hasRedis bool
	expected atomic.Uint32                     // see expect
	redis    atomic.Pointer[func() redisState] // nil without Redis

	exempt   metric.Int64Counter
	duration metric.Float64Histogram
	requests metric.Int64Histogram
	timeouts metric.Int64Counter
}

// redisState is what the metrics observe of Redis.
type redisState struct {
	denials      int // in the denial cache
	openBreakers int
	outage       time.Duration // how long at least one breaker was open, in total
}

// maxCounted is how many limits, by name, have counts of their own. A limit has up to ten series, because the denials
// of a limit with a Ban are bans. OpenTelemetry's SDK keeps 2,000 series unless it is configured otherwise.
const maxCounted = 190

// Outcomes of decisions.
const (
	outcomeAllowed = iota
	outcomeDenied
	outcomeBanned
	outcomeDryRun
	outcomeUnavailable
	outcomes
)

// outcomeNames are the names of the outcomes in metrics and spans.
var outcomeNames = [outcomes]string{"allowed", "denied", "banned", "dry_run", "unavailable"}

func (d *Decision) outcome() int {
	switch {
	case d.DryRun:
		return outcomeDryRun
	case d.Allowed:
		return outcomeAllowed
	case d.Banned:
		return outcomeBanned
	}
	return outcomeDenied
}

const sources = int(SourceFailOpen) + 1

// denialCells has a bit for each cell that counts denials. The cells that count bans follow them.
const denialCells uint32 = (1<<sources - 1) << (outcomeDenied * sources)

// cellOf returns the index of the cell that counts an outcome by a source.
func cellOf(outcome int, s Source) int { return outcome*sources + int(s) }

// counts is what was counted under one limit. A cell's counter takes memory for each processor, so it is made when the
// cell first counts something.
type counts struct {
	cells      [outcomes * sources]atomic.Pointer[xsync.Counter]
	attributes [outcomes * sources]metric.ObserveOption
	nearLimit  *xsync.Counter
	limit      metric.ObserveOption
	bans       bool // the limit had a Ban at the first decision, so denials are bans
}

// newMetrics returns the metrics of a Limiter with Redis or without, and registers them.
func newMetrics(meter metric.Meter, hasRedis bool) (*metrics, error) {
	m := &metrics{limits: xsync.NewMap[string, *counts](), hasRedis: hasRedis}
	var failed error
	keepFirst := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	observableCounter := func(name, unit, description string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		keepFirst(err)
		return c
	}
	observableUpDownCounter := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		c, err := meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		keepFirst(err)
		return c
	}
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		if err == nil {
			c.Add(context.Background(), 0) // so that Prometheus sees the first increase
		}
		keepFirst(err)
		return c
	}
	decisions := observableCounter("exactlimit.decisions", "{decision}", "Decisions on requests.")
	nearLimit := observableCounter("exactlimit.decisions.near_limit", "{decision}",
		"Admissions that leave less than a fifth of the limit.")
	instruments := []metric.Observable{decisions, nearLimit}
	m.exempt = counter("exactlimit.exempt", "{request}", "Exempt requests, which passed without a decision.")
	var denials, openBreakers metric.Int64ObservableUpDownCounter
	var outage metric.Float64ObservableCounter
	if hasRedis {
		var err error
		m.duration, err = meter.Float64Histogram("exactlimit.redis.call.duration", metric.WithUnit("s"),
			metric.WithDescription("Duration of calls to Redis."), metric.WithExplicitBucketBoundaries(
				.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1))
		keepFirst(err)
		m.requests, err = meter.Int64Histogram("exactlimit.redis.call.requests", metric.WithUnit("{request}"),
			metric.WithDescription("Requests in a call to Redis."),
			metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000))
		keepFirst(err)
		m.timeouts = counter("exactlimit.redis.timeouts", "{request}", "Requests that Redis did not decide in time.")
		denials = observableUpDownCounter("exactlimit.denial_cache.size", "{denial}", "Cached denials.")
		openBreakers = observableUpDownCounter("exactlimit.redis.open_breakers", "{breaker}", "Open circuit breakers.")
		outage, err = meter.Float64ObservableCounter("exactlimit.outage.duration", metric.WithUnit("s"),
			metric.WithDescription("Time in which a circuit breaker was open."))
		keepFirst(err)
		instruments = append(instruments, denials, openBreakers, outage)
	}
	if failed != nil {
		return nil, failed
	}
	registered, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.limits.Range(func(_ string, c *counts) bool {
			expected := m.expected.Load()
			if c.bans {
				denials := expected & denialCells
				expected = expected&^denialCells | denials<<sources // the cells of outcomeBanned
			}
			for i := range c.cells {
				if cell := c.cells[i].Load(); cell != nil {
					o.ObserveInt64(decisions, cell.Value(), c.attributes[i])
				} else if expected>>i&1 != 0 {
					o.ObserveInt64(decisions, 0, c.attributes[i])
				}
			}
			o.ObserveInt64(nearLimit, c.nearLimit.Value(), c.limit)
			return true
		})
		if redis := m.redis.Load(); redis != nil {
			state := (*redis)()
			o.ObserveInt64(denials, int64(state.denials))
			o.ObserveInt64(openBreakers, int64(state.openBreakers))
			o.ObserveFloat64(outage, state.outage.Seconds())
		}
		return nil
	}, instruments...)
	if err != nil && registered != nil {
		registered.Unregister()
	}
	return m, err
}

// observe sets the function that returns the state of Redis.
func (m *metrics) observe(redis func() redisState) { m.redis.Store(&redis) }

// expect exports 0 for the cells that a Limiter with this policy is likely to use. Otherwise Prometheus would miss the
// first increase of a series, which begins above 0.
func (m *metrics) expect(policy FailurePolicy, dryRun bool) {
	if m == nil {
		return
	}
	denied := outcomeDenied
	if dryRun {
		denied = outcomeDryRun
	}
	var cells uint32
	expect := func(outcome int, s Source) { cells |= 1 << cellOf(outcome, s) }
	if m.hasRedis {
		expect(outcomeAllowed, SourceRedis)
		expect(denied, SourceRedis)
		expect(denied, SourceDenialCache)
	}
	switch {
	case !m.hasRedis || policy == FailLocal:
		expect(outcomeAllowed, SourceInProcess)
		expect(denied, SourceInProcess)
	case policy == FailOpen || dryRun:
		expect(outcomeAllowed, SourceFailOpen)
	default:
		expect(outcomeUnavailable, 0)
	}
	m.expected.Or(cells)
}

// CountExempt counts a request that passes without a decision, in the metric exactlimit.exempt. It is for adapters,
// which know that a request is exempt before they know its limits.
func (l *Limiter) CountExempt(ctx context.Context) {
	if l.metrics != nil {
		l.metrics.exempt.Add(ctx, 1)
	}
}

// recordDecision counts a decision.
func (m *metrics) recordDecision(d *Decision) {
	outcome := d.outcome()
	c := m.countsOf(&d.Limit)
	c.add(outcome, d.Source)
	counted := outcome == outcomeAllowed && d.Source != SourceFailOpen
	if counted && d.Remaining < (d.Limit.Max+4)/5 { // less than a fifth
		c.nearLimit.Inc()
	}
}

// recordUnavailable counts a request that FailClosed refused.
func (m *metrics) recordUnavailable(limits []Limit) {
	m.countsOf(&limits[0]).add(outcomeUnavailable, 0)
}

// countsOf returns the counts of a limit, and adds them if there are none yet.
func (m *metrics) countsOf(limit *Limit) *counts {
	name, bans := limit.Name, limit.Ban > 0
	if c, found := m.limits.Load(name); found {
		return c
	}
	if m.limits.Size() >= maxCounted {
		name = "other"
	}
	c, _ := m.limits.LoadOrCompute(name, func() (*counts, bool) { return newCounts(name, bans), false })
	return c
}

func newCounts(name string, bans bool) *counts {
	limit := attribute.String("exactlimit.limit", name)
	c := &counts{nearLimit: xsync.NewCounter(), limit: metric.WithAttributeSet(attribute.NewSet(limit)), bans: bans}
	for outcome, text := range outcomeNames {
		for s := range Source(sources) {
			c.attributes[cellOf(outcome, s)] = metric.WithAttributeSet(attribute.NewSet(limit,
				attribute.String("exactlimit.outcome", text), attribute.String("exactlimit.source", s.String())))
		}
	}
	return c
}

func (c *counts) add(outcome int, s Source) {
	at := &c.cells[cellOf(outcome, s)]
	cell := at.Load()
	if cell == nil {
		at.CompareAndSwap(nil, xsync.NewCounter())
		cell = at.Load()
	}
	cell.Inc()
}

var succeeded = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet())}

// recordCall records a call to Redis.
func (m *metrics) recordCall(requests int, took time.Duration, err error) {
	options := succeeded
	if err != nil {
		kind := dispatch.Code(err)
		if kind == "" {
			kind = "connection"
		}
		options = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("error.type", kind)))}
	}
	m.duration.Record(context.Background(), took.Seconds(), options...)
	m.requests.Record(context.Background(), int64(requests), succeeded...)
}

// recordTimeout counts a request that Redis did not decide in time.
func (m *metrics) recordTimeout() { m.timeouts.Add(context.Background(), 1) }

// close stops observing Redis. The counts remain, because without them the sum over several Limiters would fall, which
// Prometheus would take for a counter that was reset to 0.
func (m *metrics) close() {
	if m == nil {
		return
	}
	if redis := m.redis.Load(); redis != nil {
		outage := (*redis)().outage
		m.observe(func() redisState { return redisState{outage: outage} })
	}
}
