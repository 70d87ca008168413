// Package metricstest tests the metrics of package core with OpenTelemetry's SDK and its exporter for Prometheus, and
// the dashboard and alert rules of core/observe with Prometheus's query engine. It is a module of its own, so that none
// of them is a dependency of a service that uses exactlimit.
package metricstest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// reader returns a provider and a function that collects from it: each series as "name{attributes}", with its value or,
// for a histogram, its count.
func reader() (*metric.MeterProvider, func(t *testing.T) map[string]float64) {
	reader := metric.NewManualReader()
	return metric.NewMeterProvider(metric.WithReader(reader)), func(t *testing.T) map[string]float64 {
		t.Helper()
		var all metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(context.Background(), &all))
		series := map[string]float64{}
		for _, scope := range all.ScopeMetrics {
			assert.Equal(t, "github.com/exactlimit/exactlimit/core", scope.Scope.Name)
			for _, m := range scope.Metrics {
				assert.NotEmpty(t, m.Description, m.Name)
				assert.NotEmpty(t, m.Unit, m.Name)
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					current := m.Name == "exactlimit.redis.open_breakers" || m.Name == "exactlimit.denial_cache.size"
					assert.Equal(t, !current, data.IsMonotonic, m.Name)
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = float64(p.Value)
					}
				case metricdata.Sum[float64]:
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = p.Value
					}
				case metricdata.Histogram[float64]:
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = float64(p.Count)
					}
				case metricdata.Histogram[int64]:
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = float64(p.Count)
						series[m.Name+" sum"] = float64(p.Sum)
					}
				default:
					t.Errorf("%s: %T", m.Name, data)
				}
			}
		}
		return series
	}
}

func name(metric string, attributes any) string {
	var words []string
	for key, value := range attributes.(map[string]string) {
		words = append(words, key[strings.LastIndexByte(key, '.')+1:]+"="+value)
	}
	if len(words) == 0 {
		return metric
	}
	slices.Sort(words)
	return metric + "{" + strings.Join(words, ",") + "}"
}

// Decisions are counted by their source.
func TestDecisions(t *testing.T) {
	provider, collect := reader()
	limiter, err := core.NewInProcess(core.WithMeterProvider(provider))
	require.NoError(t, err)
	ctx, login, site := context.Background(), core.PerHour("login", 10), core.PerDay("site", 1000)
	for range 12 {
		_, err := limiter.Allow(ctx, "a secret key", login, site)
		require.NoError(t, err)
	}
	for range 3 {
		d, err := limiter.DryRun().Allow(ctx, "a secret key", login)
		require.NoError(t, err)
		assert.True(t, d.Allowed && d.DryRun)
	}
	for range 3 {
		_, err := limiter.Allow(ctx, "a secret key",
			core.Limit{Name: "guard", Max: 1, Window: time.Hour, Ban: time.Hour})
		require.NoError(t, err)
	}
	calm := core.Limit{Name: "calm", Max: 9, Window: time.Hour, Ban: time.Hour}
	_, err = limiter.Allow(ctx, "a secret key", calm)
	require.NoError(t, err)
	_, err = limiter.Allow(ctx, "a secret key", site)
	require.NoError(t, err)
	_, err = limiter.Peek(ctx, "a secret key", site)
	require.NoError(t, err)
	_, err = limiter.Allow(ctx, "", site)
	require.ErrorIs(t, err, core.ErrInvalid)
	assert.Equal(t, map[string]float64{
		"exactlimit.decisions{limit=login,outcome=allowed,source=in-process}": 10,
		"exactlimit.decisions{limit=login,outcome=denied,source=in-process}":  2,
		"exactlimit.decisions{limit=login,outcome=dry_run,source=in-process}": 3,
		"exactlimit.decisions{limit=site,outcome=allowed,source=in-process}":  1,
		"exactlimit.decisions{limit=site,outcome=denied,source=in-process}":   0,
		"exactlimit.decisions{limit=site,outcome=dry_run,source=in-process}":  0,
		"exactlimit.decisions{limit=guard,outcome=allowed,source=in-process}": 1,
		"exactlimit.decisions{limit=guard,outcome=banned,source=in-process}":  2,
		"exactlimit.decisions{limit=guard,outcome=dry_run,source=in-process}": 0,
		"exactlimit.decisions.near_limit{limit=guard}":                        1,
		"exactlimit.decisions{limit=calm,outcome=allowed,source=in-process}":  1,
		"exactlimit.decisions{limit=calm,outcome=banned,source=in-process}":   0,
		"exactlimit.decisions{limit=calm,outcome=dry_run,source=in-process}":  0,
		"exactlimit.decisions.near_limit{limit=calm}":                         0,
		"exactlimit.decisions.near_limit{limit=login}":                        2, // the last two
		"exactlimit.decisions.near_limit{limit=site}":                         0,
		"exactlimit.exempt": 0,
	}, collect(t))

	series := collect(t)
	require.NoError(t, limiter.Close())
	assert.Equal(t, series, collect(t), "a closed limiter keeps its counts, so that no sum falls")
}

// An unlimited number of names, which a LimitFunc may create, fills neither the memory nor the SDK's table of 2,000
// series.
func TestManyNames(t *testing.T) {
	provider, collect := reader()
	limiter, err := core.Connect(redistest.Shared(t).URL(), core.WithPrefix(redistest.Prefix()),
		core.WithTimeout(5*time.Second), core.WithMeterProvider(provider))
	require.NoError(t, err)
	defer limiter.Close()
	limiter.OnFailure(core.FailOpen).DryRun()
	limiter.OnFailure(core.FailClosed)
	for i := range 500 {
		_, err := limiter.Allow(context.Background(), "ann", core.PerDay(fmt.Sprint("plan ", i), 1000))
		require.NoError(t, err)
	}
	var names, others float64
	for series, value := range collect(t) {
		assert.NotContains(t, series, "overflow")
		if strings.Contains(series, "outcome=allowed,source=redis") {
			if strings.Contains(series, "limit=other,") {
				others += value
			} else {
				names += value
			}
		}
	}
	assert.Equal(t, 190.0, names)
	assert.Equal(t, 310.0, others)
}

// An exempt request is not a decision. It is counted separately, without the name of a limit.
func TestExempt(t *testing.T) {
	provider, collect := reader()
	limiter, err := core.NewInProcess(core.WithMeterProvider(provider))
	require.NoError(t, err)
	defer limiter.Close()
	global := httplimit.Global[*http.Request]
	template := func(r *http.Request) string { return r.URL.Path }
	gate := httplimit.NewGate(limiter, global, template)
	gate.Exempt = func(r *http.Request) bool { return r.URL.Path == "/healthz" }
	trial := httplimit.NewGate(limiter, global, template)
	trial.DryRun()
	trial.Exempt = gate.Exempt
	login := httplimit.FixedPolicy[*http.Request]([]core.Limit{core.PerHour("login", 1)})
	for range 2 {
		for _, gate := range []*httplimit.Gate[*http.Request]{gate, trial} {
			for _, path := range []string{"/healthz", "/login"} {
				r := httptest.NewRequest("GET", path, nil)
				_, _ = gate.Check(r, r, http.Header{}, login)
			}
		}
	}
	assert.Equal(t, map[string]float64{
		"exactlimit.exempt": 4,
		"exactlimit.decisions{limit=login,outcome=allowed,source=in-process}": 1,
		"exactlimit.decisions{limit=login,outcome=denied,source=in-process}":  1,
		"exactlimit.decisions{limit=login,outcome=dry_run,source=in-process}": 2,
		"exactlimit.decisions.near_limit{limit=login}":                        1,
	}, collect(t))

	unmeasured, err := core.NewInProcess()
	require.NoError(t, err)
	defer unmeasured.Close()
	unmeasured.CountExempt(context.Background())
}

// On Redis, the duration of calls, the number of requests in a call, cached denials and outages are measured.
func TestRedis(t *testing.T) {
	server := redistest.Start(t)
	provider, collect := reader()
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider), core.WithTimeout(5*time.Second),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerHour("a", 2)
	for range 5 {
		_, err := limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
	}
	assert.Equal(t, map[string]float64{
		"exactlimit.decisions{limit=a,outcome=allowed,source=redis}":       2,
		"exactlimit.decisions{limit=a,outcome=denied,source=redis}":        0,
		"exactlimit.decisions{limit=a,outcome=denied,source=denial-cache}": 3,
		"exactlimit.decisions{limit=a,outcome=allowed,source=in-process}":  0,
		"exactlimit.decisions{limit=a,outcome=denied,source=in-process}":   0,
		"exactlimit.decisions.near_limit{limit=a}":                         1,
		"exactlimit.exempt":                  0,
		"exactlimit.redis.call.duration":     2,
		"exactlimit.redis.call.requests":     2,
		"exactlimit.redis.call.requests sum": 2,
		"exactlimit.redis.timeouts":          0,
		"exactlimit.redis.open_breakers":     0,
		"exactlimit.denial_cache.size":       1,
		"exactlimit.outage.duration":         0,
	}, collect(t))

	// Views with other policies have other outcomes.
	failOpen, failClosed := limiter.OnFailure(core.FailOpen), limiter.OnFailure(core.FailClosed)
	series := collect(t)
	for _, expected := range []string{
		"exactlimit.decisions{limit=a,outcome=allowed,source=fail-open}",
		"exactlimit.decisions{limit=a,outcome=unavailable,source=none}",
	} {
		assert.Contains(t, series, expected)
		assert.Zero(t, series[expected])
	}
	server.Kill()
	_, err = failOpen.Allow(ctx, "bob", limit)
	require.NoError(t, err)
	_, err = failClosed.Allow(ctx, "bob", limit)
	require.ErrorIs(t, err, core.ErrUnavailable)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = failClosed.Allow(gone, "bob", limit) // not a failure of Redis
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return collect(t)["exactlimit.redis.open_breakers"] == 1 },
		10*time.Second, time.Millisecond)
	series = collect(t)
	assert.Positive(t, series["exactlimit.outage.duration"])
	assert.Positive(t, series["exactlimit.redis.call.duration{type=connection}"])
	assert.Equal(t, 1.0, series["exactlimit.decisions{limit=a,outcome=allowed,source=fail-open}"])
	assert.Equal(t, 1.0, series["exactlimit.decisions{limit=a,outcome=unavailable,source=none}"])
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool { return collect(t)["exactlimit.redis.open_breakers"] == 0 },
		10*time.Second, 10*time.Millisecond)
}

// If Redis was never reached, that is an outage, too.
func TestNoRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	provider, collect := reader()
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	assert.Equal(t, 1.0, collect(t)["exactlimit.redis.open_breakers"])
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool { return collect(t)["exactlimit.redis.open_breakers"] == 0 },
		10*time.Second, 10*time.Millisecond)
}

// Calls that Redis rejects have the code of the error as an attribute.
func TestRejections(t *testing.T) {
	server := redistest.Start(t, "min-replicas-to-write 1")
	provider, collect := reader()
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	_, err = limiter.Allow(context.Background(), "ann", core.PerHour("a", 2))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return collect(t)["exactlimit.redis.call.duration{type=NOREPLICAS}"] > 0
	}, 10*time.Second, time.Millisecond)
}

// The names for Prometheus follow its conventions, and no series contains a key.
func TestPrometheus(t *testing.T) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	require.NoError(t, err)
	server := redistest.Start(t)
	provider := metric.NewMeterProvider(metric.WithReader(exporter))
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	for range 3 {
		_, err := limiter.Allow(context.Background(), "user:hunter2", core.PerHour("login", 2))
		require.NoError(t, err)
	}
	limiter.CountExempt(context.Background())
	require.NoError(t, server.Pause())
	_, err = limiter.Allow(context.Background(), "late", core.PerHour("login", 2)) // decided without Redis
	require.NoError(t, err)
	require.NoError(t, server.Resume())
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	scrape := w.Body.String()
	for _, series := range []string{
		`exactlimit_decisions_total{exactlimit_limit="login",exactlimit_outcome="allowed",exactlimit_source="redis"`,
		`exactlimit_exempt_total{`,
		`exactlimit_decisions_near_limit_total{exactlimit_limit="login"`,
		`exactlimit_redis_call_duration_seconds_bucket{`,
		`exactlimit_redis_open_breakers{`,
		`exactlimit_outage_duration_seconds_total{`,
		`exactlimit_denial_cache_size{`,
	} {
		assert.Contains(t, scrape, series)
	}
	assert.NotContains(t, scrape, "hunter2")
}

func TestNilProvider(t *testing.T) {
	_, err := core.NewInProcess(core.WithMeterProvider(nil))
	assert.ErrorIs(t, err, core.ErrInvalid)
}

func TestMeasuringDoesNotAllocate(t *testing.T) {
	provider, _ := reader()
	inProcess, err := core.NewInProcess(core.WithMeterProvider(provider))
	require.NoError(t, err)
	defer inProcess.Close()
	ctx, roomy, full := context.Background(), core.PerDay("roomy", 1_000_000), core.PerDay("full", 1)
	assert.Zero(t, testing.AllocsPerRun(10_000, func() { inProcess.Allow(ctx, "ann", roomy) }))

	onRedis, err := core.Connect(redistest.Shared(t).URL(), core.WithPrefix(redistest.Prefix()),
		core.WithTimeout(5*time.Second), core.WithMeterProvider(provider),
		core.WithDenialCache(1, time.Hour))
	require.NoError(t, err)
	defer onRedis.Close()
	var d core.Decision
	denied := func() { d, _ = onRedis.Allow(ctx, "ann", full) }
	denied()
	denied()
	assert.Zero(t, testing.AllocsPerRun(1000, denied))
	assert.Equal(t, core.SourceDenialCache, d.Source)
}

// BenchmarkMeasured measures a limiter with metrics and one without in turn, and reports the medians, in nanoseconds,
// and their ratio.
func BenchmarkMeasured(b *testing.B) {
	provider, _ := reader()
	plain, err := core.NewInProcess()
	require.NoError(b, err)
	defer plain.Close()
	measured, err := core.NewInProcess(core.WithMeterProvider(provider))
	require.NoError(b, err)
	defer measured.Close()
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	ctx, limit := context.Background(), core.Limit{Name: "bench", Max: 10_000, Window: 100 * time.Millisecond}
	turn := func(limiter *core.Limiter) float64 {
		const calls = 200_000
		begun := time.Now()
		for i := range calls {
			if _, err := limiter.Allow(ctx, keys[i%len(keys)], limit); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(begun).Nanoseconds()) / calls
	}
	var without, with, ratios []float64
	for b.Loop() {
		for range 11 {
			w, m := turn(plain), turn(measured)
			without, with, ratios = append(without, w), append(with, m), append(ratios, m/w)
		}
	}
	for _, values := range [][]float64{without, with, ratios} {
		slices.Sort(values)
	}
	b.ReportMetric(without[len(without)/2], "plain-ns")
	b.ReportMetric(with[len(with)/2], "measured-ns")
	b.ReportMetric(ratios[len(ratios)/2], "measured/plain")
}
