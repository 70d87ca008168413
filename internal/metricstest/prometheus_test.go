package metricstest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
)

// server consists of the parts of Prometheus: its parser of scrapes, its query engine, and the rules of core/observe.
// A test sets the times of scrapes and queries, so it waits for none. The zero server is ready to use.
type server struct {
	series map[string]*series // by labels
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func (s *series) add(at time.Duration, v float64) {
	s.samples = append(s.samples, sample{at.Milliseconds(), v})
}

// instance is one instance of a service, which Prometheus scrapes.
type instance struct {
	provider *metric.MeterProvider
	registry *prometheus.Registry
	name     string
}

func newInstance(t *testing.T, name string) *instance {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	require.NoError(t, err)
	return &instance{metric.NewMeterProvider(metric.WithReader(exporter)), registry, name}
}

// text returns what the instance exports.
func (i *instance) text() string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(i.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// scrape stores what the instance exports now, with the time at.
func (s *server) scrape(t *testing.T, i *instance, at time.Duration) {
	t.Helper()
	p := textparse.NewPromParser([]byte(i.text()), labels.NewSymbolTable())
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if entry == textparse.EntrySeries {
			var of labels.Labels
			p.Metric(&of)
			_, _, v := p.Series()
			of = labels.NewBuilder(of).Set("job", "api").Set("instance", i.name).Labels()
			s.of(of).add(at, v)
		}
	}
	for _, series := range s.series { // series that it no longer exports end
		last := series.samples[len(series.samples)-1]
		if series.labels.Get("instance") == i.name && last.T() < at.Milliseconds() {
			series.add(at, math.Float64frombits(value.StaleNaN))
		}
	}
}

func (s *server) of(of labels.Labels) *series {
	if s.series == nil {
		s.series = map[string]*series{}
	}
	if s.series[of.String()] == nil {
		s.series[of.String()] = &series{labels: of}
	}
	return s.series[of.String()]
}

var engine = promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})

// query returns the values of an expression by the labels of the result.
func (s *server) query(t *testing.T, expr string, at time.Duration) map[string]float64 {
	t.Helper()
	q, err := engine.NewInstantQuery(context.Background(), s, nil, expr, timestamp.Time(at.Milliseconds()))
	require.NoError(t, err, expr)
	defer q.Close()
	result, err := q.Exec(context.Background()).Vector()
	require.NoError(t, err, expr)
	values := map[string]float64{}
	for _, sample := range result {
		values[sample.Metric.String()] = sample.F
	}
	return values
}

// firing returns the alerts that fire, one for each set of labels, if the rules have been evaluated every 15 s.
func (s *server) firing(t *testing.T, at time.Duration) []string {
	t.Helper()
	var firing []string
	for _, rule := range alerts(t) {
		since := map[string]time.Duration{}
		for now := time.Duration(0); now <= at; now += 15 * time.Second {
			values := s.query(t, rule.Expr, now)
			for of := range since {
				if _, found := values[of]; !found {
					delete(since, of)
				}
			}
			for of := range values {
				if _, found := since[of]; !found {
					since[of] = now
				}
				if now == at && now-since[of] >= time.Duration(rule.For) {
					firing = append(firing, strings.TrimPrefix(rule.Alert, "Exactlimit"))
				}
			}
		}
	}
	slices.Sort(firing)
	return slices.Compact(firing)
}

// Querier, Select and the methods below let the engine read the series.
func (s *server) Querier(int64, int64) (storage.Querier, error) { return s, nil }

func (s *server) Select(
	_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher,
) storage.SeriesSet {
	var found []storage.Series
	for _, series := range s.series {
		matches := func(m *labels.Matcher) bool { return m.Matches(series.labels.Get(m.Name)) }
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !matches(m) }) {
			found = append(found, storage.NewListSeries(series.labels, series.samples))
		}
	}
	return &set{rest: found}
}

func (s *server) LabelValues(
	context.Context, string, *storage.LabelHints, ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (s *server) LabelNames(
	context.Context, *storage.LabelHints, ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (s *server) Close() error { return nil }

type set struct {
	now  storage.Series
	rest []storage.Series
}

func (s *set) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.now, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *set) At() storage.Series                { return s.now }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }

// alerts returns the rules of core/observe, and fails if they are invalid.
func alerts(t *testing.T) (rules []rulefmt.Rule) {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../../core/observe/alerts.yaml") // as promtool check rules does
	require.Empty(t, errs)
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			rules = append(rules, rulefmt.Rule{Alert: rule.Alert.Value, Expr: rule.Expr.Value, For: rule.For})
		}
	}
	require.NotEmpty(t, rules)
	return rules
}

// panels returns the queries of the dashboard by the titles of their panels, for all jobs and intervals of five
// minutes.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../core/observe/dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			ID                       int
			Type, Title, Description string
			Targets                  []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	queries, ids := map[string][]string{}, map[int]bool{}
	variables := strings.NewReplacer(`, job=~"$job"`, "", `{job=~"$job"}`, "", "$__rate_interval", "5m")
	for _, panel := range dashboard.Panels {
		require.False(t, ids[panel.ID], "two panels have the id %d", panel.ID)
		ids[panel.ID] = true
		if panel.Type == "row" {
			continue
		}
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		require.Empty(t, queries[panel.Title], "two panels have the title %q", panel.Title)
		for _, target := range panel.Targets {
			queries[panel.Title] = append(queries[panel.Title], variables.Replace(target.Expr))
		}
	}
	require.NotEmpty(t, queries)
	return queries
}

// documented returns the queries of core/README.md. Each can be copied together with the comment above it.
func documented(t *testing.T) (queries []string) {
	t.Helper()
	readme, err := os.ReadFile("../../core/README.md")
	require.NoError(t, err)
	for _, block := range regexp.MustCompile("(?ms)^```promql\n(.*?)^```").FindAllStringSubmatch(string(readme), -1) {
		queries = append(queries, strings.Split(block[1], "\n\n")...)
	}
	require.NotEmpty(t, queries)
	return queries
}

// normalize returns an expression as Prometheus writes it, without comments.
func normalize(t *testing.T, expr string) string {
	t.Helper()
	parsed, err := parser.ParseExpr(expr)
	require.NoError(t, err, expr)
	return parsed.String()
}
