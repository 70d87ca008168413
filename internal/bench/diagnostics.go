package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// diagnostics is what exactlimit logged and measured about its path to Redis.
type diagnostics struct {
	// Warnings are the log messages of level Warn and above, and how often each was written.
	Warnings map[string]int `json:",omitempty"`
	// Outage is how long the circuit breaker was open, by the metric. It is zero if that was not measured.
	Outage time.Duration `json:",omitempty"`
}

func (d *diagnostics) add(other diagnostics) {
	for message, n := range other.Warnings {
		if d.Warnings == nil {
			d.Warnings = map[string]int{}
		}
		d.Warnings[message] += n
	}
	d.Outage += other.Outage
}

// warningCounter is a slog.Handler that counts warnings. The zero value is ready to use.
type warningCounter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (w *warningCounter) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}
func (w *warningCounter) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *warningCounter) WithGroup(string) slog.Handler      { return w }

func (w *warningCounter) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts == nil {
		w.counts = map[string]int{}
	}
	w.counts[r.Message]++
	return nil
}

func (w *warningCounter) counted() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.counts)
}

// outageDuration reads the metric for how long the circuit breaker was open.
func outageDuration(reader metric.Reader) (time.Duration, error) {
	const name = "exactlimit.outage.duration"
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		return 0, err
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[float64])
			if m.Name != name || !ok {
				continue
			}
			var seconds float64
			for _, point := range sum.DataPoints {
				seconds += point.Value
			}
			return time.Duration(seconds * float64(time.Second)), nil
		}
	}
	return 0, errors.New("exactlimit has no metric " + name)
}
