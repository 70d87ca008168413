// Package metricstest tests the metrics of package core with OpenTelemetry's SDK and its exporter for Prometheus. It is a
// module of its own, so that neither is a dependency of who uses exactlimit.
package metricstest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
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

// reader returns a provider and what collects from it: each series as "name{attributes}", with its value, or its count where
// it is a histogram.
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
					assert.True(t, data.IsMonotonic, m.Name)
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = float64(p.Value)
					}
				case metricdata.Sum[float64]:
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = p.Value
					}
				case metricdata.Gauge[int64]:
					for _, p := range data.DataPoints {
						series[name(m.Name, p.Attributes.MarshalLog())] = float64(p.Value)
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

// What is decided is counted, by what decided it.
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
		_, err := limiter.Allow(ctx, "a secret key", core.Limit{Name: "guard", Max: 1, Window: time.Hour, Ban: time.Hour})
		require.NoError(t, err)
	}
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
		"exactlimit.decisions{limit=guard,outcome=allowed,source=in-process}": 1,
		"exactlimit.decisions{limit=guard,outcome=banned,source=in-process}":  2,
		"exactlimit.decisions.near_limit{limit=guard}":                        1,
		"exactlimit.decisions.near_limit{limit=login}":                        2, // the ninth, which leaves one, and the tenth
		"exactlimit.decisions.near_limit{limit=site}":                         0,
	}, collect(t))

	// Names without end, as a LimitFunc may make them, do not fill the memory.
	for i := range 2000 {
		_, err := limiter.Allow(ctx, "a secret key", core.PerDay(fmt.Sprint("plan ", i), 1000))
		require.NoError(t, err)
	}
	series := collect(t)
	assert.Less(t, len(series), 2*1010)
	assert.Greater(t, series["exactlimit.decisions{limit=other,outcome=allowed,source=in-process}"], 900.0)

	require.NoError(t, limiter.Close())
	assert.Empty(t, collect(t), "a closed limiter tells nothing")
}

// An exempt request is no decision, and is counted on its own, without the name of a limit that it might have had.
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
	login := httplimit.Fixed[*http.Request]([]core.Limit{core.PerHour("login", 1)})
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

// On Redis: what its calls took and asked for, what is remembered, and outages.
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
	series := collect(t)
	assert.Equal(t, map[string]float64{
		"exactlimit.decisions{limit=a,outcome=allowed,source=redis}":       2,
		"exactlimit.decisions{limit=a,outcome=denied,source=denial-cache}": 3,
		"exactlimit.decisions.near_limit{limit=a}":                         1,
		"exactlimit.redis.call.duration":                                   2,
		"exactlimit.redis.call.requests":                                   2,
		"exactlimit.redis.call.requests sum":                               2,
		"exactlimit.denial_cache.size":                                     1,
		"exactlimit.outage.links":                                          0,
		"exactlimit.outage.duration":                                       0,
	}, series)
	server.Kill()
	_, err = limiter.OnFailure(core.FailOpen).Allow(ctx, "bob", limit)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return collect(t)["exactlimit.outage.links"] == 1 }, 10*time.Second, time.Millisecond)
	series = collect(t)
	assert.Positive(t, series["exactlimit.outage.duration"])
	assert.Positive(t, series["exactlimit.redis.call.duration{type=connection}"])
	assert.Equal(t, 1.0, series["exactlimit.decisions{limit=a,outcome=allowed,source=fail-open}"])
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool { return collect(t)["exactlimit.outage.links"] == 0 }, 10*time.Second, 10*time.Millisecond)
}

// A Redis that was never there is away too.
func TestNoRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	provider, collect := reader()
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider), core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	assert.Equal(t, 1.0, collect(t)["exactlimit.outage.links"])
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool { return collect(t)["exactlimit.outage.links"] == 0 }, 10*time.Second, 10*time.Millisecond)
}

// Calls that Redis rejects are told apart by the code of the error.
func TestRejections(t *testing.T) {
	server := redistest.Start(t, "min-replicas-to-write 1")
	provider, collect := reader()
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(provider), core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	_, err = limiter.Allow(context.Background(), "ann", core.PerHour("a", 2))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return collect(t)["exactlimit.redis.call.duration{type=NOREPLICAS}"] > 0
	}, 10*time.Second, time.Millisecond)
}

// Prometheus finds them under names that follow its conventions, which the README's queries use, and no key among them.
func TestPrometheus(t *testing.T) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	require.NoError(t, err)
	server := redistest.Start(t)
	limiter, err := core.Connect(server.URL(), core.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(exporter))),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	for range 3 {
		_, err := limiter.Allow(context.Background(), "user:hunter2", core.PerHour("login", 2))
		require.NoError(t, err)
	}
	limiter.CountExempt(context.Background())
	require.NoError(t, server.Pause())
	_, err = limiter.Allow(context.Background(), "late", core.PerHour("login", 2)) // which is decided without Redis
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
		`exactlimit_outage_links{`,
		`exactlimit_outage_duration_seconds_total{`,
		`exactlimit_denial_cache_size{`,
	} {
		assert.Contains(t, scrape, series)
	}
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	queried := regexp.MustCompile(`[( ](exactlimit_\w+)[{[)]`).FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, queried)
	for _, metric := range queried {
		if metric[1] != "exactlimit_limit" { // a label
			assert.Contains(t, scrape, "\n"+metric[1]+"{")
		}
	}
	assert.NotContains(t, scrape, "hunter2")
}

func TestNilProvider(t *testing.T) {
	_, err := core.NewInProcess(core.WithMeterProvider(nil))
	assert.ErrorIs(t, err, core.ErrInvalid)
}

func TestMeasuringDoesNotAllocate(t *testing.T) {
	provider, _ := reader()
	limiter, err := core.NewInProcess(core.WithMeterProvider(provider))
	require.NoError(t, err)
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerDay("roomy", 1_000_000)
	assert.Zero(t, testing.AllocsPerRun(10_000, func() { limiter.Allow(ctx, "ann", limit) }))
}

// BenchmarkMeasured has a limiter with metrics and one without take turns, and reports the medians, in nanoseconds, and their
// ratio.
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
