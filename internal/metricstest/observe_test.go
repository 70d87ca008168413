package metricstest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// service is an instance with limits of each failure policy.
type service struct {
	*instance
	redis                                 *redistest.Server
	clients                               int
	limiter, failOpen, failClosed, dryRun *core.Limiter
}

func newService(t *testing.T, redis *redistest.Server) *service {
	i := newInstance(t, "a")
	limiter := connect(t, i, redis.URL())
	return &service{
		instance: i, redis: redis,
		limiter: limiter, failOpen: limiter.OnFailure(core.FailOpen), failClosed: limiter.OnFailure(core.FailClosed),
		dryRun: limiter.DryRun(),
	}
}

func connect(t *testing.T, i *instance, url string) *core.Limiter {
	limiter, err := core.Connect(url, core.WithMeterProvider(i.provider),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// use makes four requests of a new client under each limit. Two are denied if there is a decision.
func (s *service) use() {
	s.clients++
	for range 4 {
		for name, limiter := range map[string]*core.Limiter{
			"search": s.limiter, "page": s.failOpen, "login": s.failClosed, "new": s.dryRun,
		} {
			limiter.Allow(context.Background(), fmt.Sprint("client ", s.clients), core.PerHour(name, 2))
		}
	}
	s.limiter.CountExempt(context.Background())
}

// fail stops Redis, and waits until the limiters notice it.
func (s *service) fail(t *testing.T) {
	s.redis.Kill()
	s.await(t, 1)
}

func (s *service) recover(t *testing.T) {
	require.NoError(t, s.redis.Start())
	s.await(t, 0)
}

// await makes requests until the instance exports this number of open circuit breakers.
func (s *service) await(t *testing.T, breakers float64) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.use()
		return s.now(t)["exactlimit_redis_open_breakers"] == breakers
	}, 20*time.Second, 10*time.Millisecond)
}

// now returns the current sums of the series of the instance, by name.
func (i *instance) now(t *testing.T) map[string]float64 {
	t.Helper()
	var s server
	s.scrape(t, i, 0)
	sums := map[string]float64{}
	for _, series := range s.series {
		sums[series.labels.Get("__name__")] += series.samples[0].F()
	}
	return sums
}

// Each query of the dashboard, the rules and core/README.md has a result after each event has happened once, and
// selects only series that the limiter exports. The queries of the README are also in one of the files.
func TestQueries(t *testing.T) {
	s := newService(t, redistest.Start(t))
	var p server
	s.use()
	p.scrape(t, s.instance, 0)
	s.use()
	s.fail(t)
	s.use()
	p.scrape(t, s.instance, 30*time.Second)

	queries := map[string]string{}
	for title, exprs := range panels(t) {
		for _, expr := range exprs {
			queries[normalize(t, expr)] = "panel " + title
			assert.NotEmpty(t, p.query(t, expr, 30*time.Second), title)
		}
	}
	for _, rule := range alerts(t) {
		queries[normalize(t, rule.Expr)] = rule.Alert
	}
	for _, expr := range documented(t) {
		assert.Contains(t, queries, normalize(t, expr), "a query of the README is in no file")
	}
	for expr, where := range queries {
		parsed, err := parser.ParseExpr(expr)
		require.NoError(t, err)
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			if selector, ok := node.(*parser.VectorSelector); ok {
				assert.NotEmpty(t, p.query(t, selector.String(), 30*time.Second), "%s: no such series", where)
			}
			return nil
		})
	}
}

// core/README.md names each metric and label that the limiter exports, and no others.
func TestDocumentedNames(t *testing.T) {
	s := newService(t, redistest.Start(t))
	s.use()
	s.fail(t)
	var p server
	p.scrape(t, s.instance, 0)
	histogram := regexp.MustCompile("(_redis_call_.*)_(bucket|sum|count)$")
	exported := map[string]bool{}
	for _, series := range p.series {
		series.labels.Range(func(label labels.Label) {
			if label.Name == "__name__" {
				exported[histogram.ReplaceAllString(label.Value, "$1")] = true
			} else if strings.HasPrefix(label.Name, "exactlimit_") || label.Name == "error_type" {
				exported[label.Name] = true
			}
		})
	}
	delete(exported, "target_info")
	readme, err := os.ReadFile("../../core/README.md")
	require.NoError(t, err)
	named := map[string]bool{}
	names := regexp.MustCompile("`(exactlimit_[a-z_]+|error_type)[`{]")
	for _, match := range names.FindAllStringSubmatch(string(readme), -1) {
		named[match[1]] = true
	}
	assert.Equal(t, exported, named)
}

// The panels show the events of the test.
func TestDashboard(t *testing.T) {
	s := newService(t, redistest.Start(t))
	var p server
	s.use()
	p.scrape(t, s.instance, 0)
	p.scrape(t, s.instance, 15*time.Second)
	s.use()
	p.scrape(t, s.instance, 30*time.Second)
	show := func(title string) map[string]float64 { return p.query(t, panels(t)[title][0], 30*time.Second) }
	assert.Equal(t, map[string]float64{
		`{exactlimit_limit="search"}`: 0.5, `{exactlimit_limit="page"}`: 0.5, `{exactlimit_limit="login"}`: 0.5,
		`{exactlimit_limit="new"}`: 0,
	}, show("Share of denials by limit"))
	dryRun := show("Would be denied")
	assert.Equal(t, []string{`{exactlimit_limit="login"}`, `{exactlimit_limit="new"}`, `{exactlimit_limit="page"}`,
		`{exactlimit_limit="search"}`}, slices.Sorted(maps.Keys(dryRun)))
	assert.Positive(t, dryRun[`{exactlimit_limit="new"}`])
	assert.Zero(t, dryRun[`{exactlimit_limit="search"}`])
	assert.Positive(t, show("Exempt requests")["{}"])
	assert.Zero(t, show("Time without Redis")[`{instance="a"}`])
	assert.Equal(t, 0.0, show("Open circuit breakers")[`{instance="a"}`])
	assert.Positive(t, show("Denials without a call to Redis")["{}"])
	for source, rate := range show("Decided without Redis") {
		assert.Zero(t, rate, source)
	}
}

// An outage between two scrapes is visible.
func TestShortOutage(t *testing.T) {
	s := newService(t, redistest.Start(t))
	var p server
	s.use()
	p.scrape(t, s.instance, 0)
	p.scrape(t, s.instance, 30*time.Second)
	assert.Empty(t, p.firing(t, 45*time.Second))

	s.fail(t)
	s.use()
	s.recover(t)
	for at := 60 * time.Second; at <= 8*time.Minute; at += 30 * time.Second {
		p.scrape(t, s.instance, at)
	}
	for _, timeline := range []struct {
		at   time.Duration
		want []string
	}{
		{at: 45 * time.Second},
		{at: 60 * time.Second, want: []string{"DecidedWithoutRedis", "RedisOutage", "Unavailable"}},
		{at: 5 * time.Minute, want: []string{"DecidedWithoutRedis", "RedisOutage", "Unavailable"}},
		{at: 6 * time.Minute},
		{at: 8 * time.Minute},
	} {
		assert.Equal(t, timeline.want, p.firing(t, timeline.at), timeline.at)
	}
	assert.Equal(t, []string{`{exactlimit_limit="login", job="api"}`}, alerting(t, p, "Unavailable"))
	assert.Equal(t, []string{
		`{exactlimit_limit="new", job="api"}`, `{exactlimit_limit="page", job="api"}`,
		`{exactlimit_limit="search", job="api"}`,
	}, alerting(t, p, "DecidedWithoutRedis"))
}

// alerting returns the labels for which an alert is active at one minute.
func alerting(t *testing.T, p server, alert string) []string {
	t.Helper()
	for _, rule := range alerts(t) {
		if rule.Alert == "Exactlimit"+alert {
			return slices.Sorted(maps.Keys(p.query(t, rule.Expr, time.Minute)))
		}
	}
	t.Fatalf("no alert %s", alert)
	return nil
}

// If Redis was never reached, the outage begins at the start.
func TestRedisNeverReached(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill()
	s := newService(t, redis)
	var p server
	for at := time.Duration(0); at <= 2*time.Minute; at += 30 * time.Second {
		s.use()
		p.scrape(t, s.instance, at)
	}
	assert.Subset(t, p.firing(t, 2*time.Minute), []string{"DecidedWithoutRedis", "RedisAway", "Unavailable"})
}

// The values of limiters with one provider are added, whichever of them has an outage, and to close one does not change
// what the others have counted.
func TestTwoLimiters(t *testing.T) {
	for name, firstFails := range map[string]bool{"the first fails": true, "the second fails": false} {
		t.Run(name, func(t *testing.T) {
			ctx, limit := context.Background(), core.PerHour("search", 2)
			both, failing := newInstance(t, "a"), redistest.Start(t)
			var healthy, down *core.Limiter
			connectHealthy := func() { healthy = connect(t, both, redistest.Start(t).URL()) }
			connectDown := func() { down = connect(t, both, failing.URL()) }
			if firstFails {
				connectDown()
				connectHealthy()
			} else {
				connectHealthy()
				connectDown()
			}
			for _, limiter := range []*core.Limiter{healthy, down} {
				for range 3 {
					_, err := limiter.Allow(ctx, "ann", limit)
					require.NoError(t, err)
				}
			}
			assert.Equal(t, 6.0, both.now(t)["exactlimit_decisions_total"])
			assert.Equal(t, 2.0, both.now(t)["exactlimit_denial_cache_size"])
			failing.Kill()
			require.Eventually(t, func() bool {
				_, err := down.Allow(ctx, "bob", limit)
				return err == nil && both.now(t)["exactlimit_redis_open_breakers"] == 1
			}, 20*time.Second, 10*time.Millisecond)

			decisions := both.now(t)["exactlimit_decisions_total"]
			require.NoError(t, healthy.Close())
			assert.Equal(t, 1.0, both.now(t)["exactlimit_redis_open_breakers"])
			require.NoError(t, down.Close())
			closed := both.now(t)
			assert.Equal(t, 0.0, closed["exactlimit_redis_open_breakers"])
			assert.Equal(t, 0.0, closed["exactlimit_denial_cache_size"])
			assert.Equal(t, decisions, closed["exactlimit_decisions_total"])
			assert.Positive(t, closed["exactlimit_outage_duration_seconds_total"])
			assert.Equal(t, closed, both.now(t), "no outage goes on")
		})
	}
}

// A limiter without Redis decides in-process, which is not an outage to any alert. A client that leaves is not a
// failure.
func TestNoFailure(t *testing.T) {
	i := newInstance(t, "a")
	limiter, err := core.NewInProcess(core.WithMeterProvider(i.provider), core.OnFailure(core.FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	var p server
	for at := time.Duration(0); at <= 2*time.Minute; at += 30 * time.Second {
		_, err := limiter.Allow(context.Background(), "ann", core.PerHour("search", 100))
		require.NoError(t, err)
		p.scrape(t, i, at)
	}
	assert.Empty(t, p.firing(t, 2*time.Minute))

	s := newService(t, redistest.Start(t))
	s.use()
	require.NoError(t, s.redis.Pause())
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(time.Millisecond, cancel)
	_, err = s.failClosed.Allow(ctx, "carl", core.PerHour("login", 2))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.redis.Resume())
	p = server{}
	p.scrape(t, s.instance, 0)
	for of, refused := range p.query(t, `exactlimit_decisions_total{exactlimit_outcome="unavailable"}`, 0) {
		assert.Zero(t, refused, of)
	}
}

// An alert fires as long as its condition lasts. Each metric has one value per minute.
func TestAlerts(t *testing.T) {
	const (
		breakers = `exactlimit_redis_open_breakers`
		outages  = `exactlimit_outage_duration_seconds_total`
		timeouts = `exactlimit_redis_timeouts_total`
		fast     = `exactlimit_redis_call_duration_seconds_bucket{le="0.05"}`
		slow     = `exactlimit_redis_call_duration_seconds_bucket{le="0.1"}`
		all      = `exactlimit_redis_call_duration_seconds_bucket{le="+Inf"}`
		allowed  = `exactlimit_decisions_total{exactlimit_outcome="allowed"}`
		denied   = `exactlimit_decisions_total{exactlimit_outcome="denied"}`
	)
	by := func(step float64) func(float64) float64 { return func(minute float64) float64 { return minute * step } }
	until := func(end float64, f func(float64) float64) func(float64) float64 {
		return func(minute float64) float64 { return f(min(minute, end)) }
	}
	is := func(v float64) func(float64) float64 { return func(float64) float64 { return v } }
	type values map[string]func(minute float64) float64
	for _, test := range []struct {
		name  string
		now   values
		alert string       // empty if no alert fires
		fires map[int]bool // at these minutes
	}{
		{name: "nothing happens", now: values{
			breakers: is(0), outages: is(7), timeouts: is(7), fast: by(100), slow: by(100), all: by(100),
			allowed: by(100), denied: by(90),
		}, fires: map[int]bool{5: false, 20: false}},
		{name: "Redis is down", alert: "RedisAway",
			now: values{breakers: is(2)}, fires: map[int]bool{0: false, 1: true, 20: true}},
		{name: "one timeout", now: values{timeouts: until(1, by(1)), outages: is(0)},
			alert: "RedisTimeouts", fires: map[int]bool{2: false, 6: false, 11: false, 20: false}},
		{name: "timeouts all the time", now: values{timeouts: by(3), outages: is(0)},
			alert: "RedisTimeouts", fires: map[int]bool{5: false, 12: true, 20: true}},
		{name: "timeouts in an outage", now: values{timeouts: by(3), outages: by(1)},
			alert: "RedisTimeouts", fires: map[int]bool{12: false, 20: false}},
		{name: "two calls in a hundred are slow", now: values{fast: by(98), slow: by(100), all: by(100)},
			alert: "RedisSlow", fires: map[int]bool{5: false, 7: true, 20: true}},
		{name: "one call was slow", now: values{fast: is(0), slow: until(1, by(1)), all: until(1, by(1))},
			alert: "RedisSlow", fires: map[int]bool{2: false, 6: false, 20: false}},
		{name: "most requests are denied", now: values{allowed: by(9), denied: by(11)},
			alert: "ManyDenials", fires: map[int]bool{5: false, 12: true, 20: true}},
		{name: "most requests were denied for a while",
			now:   values{allowed: by(9), denied: until(3, by(20))},
			alert: "ManyDenials", fires: map[int]bool{5: false, 12: false, 20: false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p server
			for name, value := range test.now {
				of, err := parser.ParseMetric(name)
				require.NoError(t, err)
				series := p.of(labels.NewBuilder(of).Set("job", "api").Set("instance", "a").Labels())
				for minute := range 21 {
					series.add(time.Duration(minute)*time.Minute, value(float64(minute)))
				}
			}
			for minute, fires := range test.fires {
				firing := p.firing(t, time.Duration(minute)*time.Minute)
				if fires {
					assert.Equal(t, []string{test.alert}, firing, "minute %d", minute)
				} else {
					assert.NotContains(t, firing, test.alert, "minute %d", minute)
				}
				if test.alert == "" {
					assert.Empty(t, firing, "minute %d", minute)
				}
			}
		})
	}
}
