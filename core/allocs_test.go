//go:build !race

package core

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// The race detector allocates, so these run without it.

func TestInProcessAllowDoesNotAllocate(t *testing.T) {
	limiter := newLocal(t)
	ctx := context.Background()
	ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{}) // a span that is not recorded
	roomy, full := PerDay("roomy", 1_000_000), PerDay("full", 1)
	banned := Limit{Name: "banned", Max: 1, Window: time.Hour, Ban: time.Hour}
	limiter.Allow(ctx, "ann", full)
	limiter.Allow(ctx, "ann", banned)
	for name, call := range map[string]func(){
		"admitted": func() { limiter.Allow(ctx, "ann", roomy) }, // but for the few times that the log grows
		"denied":   func() { limiter.Allow(ctx, "ann", full) },
		"banned":   func() { limiter.Allow(ctx, "ann", banned) },
		"peeked":   func() { limiter.Peek(ctx, "ann", full) },
	} {
		assert.Zero(t, testing.AllocsPerRun(10_000, call), name)
	}
	d, err := limiter.Peek(ctx, "ann", roomy)
	require.NoError(t, err)
	assert.Equal(t, 1_000_000-10_001, d.Remaining)
}

func TestCachedDenialAllocatesNothing(t *testing.T) {
	limiter, _, _ := onShared(t)
	ctx, few := context.Background(), []Limit{PerHour("b", 1), PerDay("a", 2)}
	for _, limits := range [][]Limit{few[:1], few} {
		var d Decision
		allow := func() { d, _ = limiter.Allow(ctx, "ann", limits...) }
		allow()
		allow()
		assert.Zero(t, testing.AllocsPerRun(1000, allow))
		assert.Equal(t, SourceDenialCache, d.Source)
	}
}

// The text that the names of all logs are cut from, and the reply.
func TestAllowOnRedisAllocatesTwice(t *testing.T) {
	// On one connection: another that rueidis made meanwhile would count thousands.
	limiter := connectTo(t, redistest.Shared(t).URL(), WithPrefix(redistest.Prefix()))
	ctx, cancel := context.WithCancel(context.Background()) // like a request's
	defer cancel()
	limit := PerDay("roomy", 1_000_000)
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { limiter.Allow(ctx, "ann", limit) }), 2.0)
}
