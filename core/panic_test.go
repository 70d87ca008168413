package core

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A panic in the user's client is an error, and leaves nothing waiting: not when the limiter is made, not in a call or
// a probe.
func TestPanicInAClient(t *testing.T) {
	var panics atomic.Bool
	mistake := func() {
		if panics.Load() {
			panic("in a hook")
		}
	}
	client := redistest.Shared(t).Hooked(t, func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		mistake()
		return send()
	})
	client.Masters = func() map[string]rueidis.Client {
		mistake()
		return client.Client.Nodes()
	}
	panics.Store(true)
	limiter := newOver(t, client, WithPrefix(redistest.Prefix()), OnFailure(FailClosed), silent)
	limit := PerHour("a", 1000)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := limiter.Allow(context.Background(), "ann", limit)
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, "the Redis client panicked: in a hook")
		})
	}
	all.Wait()
	panics.Store(false)
	require.Eventually(t, func() bool {
		d, err := limiter.Allow(context.Background(), "ann", limit)
		return err == nil && d.Remaining == 999
	}, 10*time.Second, time.Millisecond)
}

// panicking is a span with a mistake in it.
type panicking struct {
	trace.Span
	recording bool
}

func (p panicking) IsRecording() bool {
	if !p.recording {
		panic("in IsRecording")
	}
	return true
}

func (panicking) SetAttributes(...attribute.KeyValue) { panic("in SetAttributes") }

// A caller that gets a panic instead of a decision has been charged nothing, and holds nothing.
func TestPanickingSpans(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			flight, window := InFlight("f", 2, time.Hour), PerHour("w", 9)
			ann := user{t, limiter, "ann", []Limit{flight, window}}
			for _, span := range []panicking{{recording: true}, {recording: false}} {
				ctx := trace.ContextWithSpan(context.Background(), span)
				assert.Panics(t, func() { limiter.AllowN(ctx, "ann", 2, flight, window) })
				assert.Panics(t, func() { limiter.Wait(ctx, "ann", window, flight) })
				ann.remain(2, 9)
			}
			if limiter.redis != nil {
				assert.Empty(t, limiter.redis.leases.held)
			}
			ann.allow(2, flight, window)
			ctx := trace.ContextWithSpan(context.Background(), panicking{recording: true})
			assert.Panics(t, func() { limiter.Allow(ctx, "ann", flight, window) }, "a denial")
			ann.remain(0, 7)
		})
	}
}

// panicsOnce is a handler of a logger that panics when it is told of something for the first time.
type panicsOnce struct {
	slog.Handler
	done atomic.Bool
}

func (p *panicsOnce) Handle(context.Context, slog.Record) error {
	if !p.done.Swap(true) {
		panic("in Handle")
	}
	return nil
}

// A Release that fails goes on in the background, even if its caller does not hear of the error.
func TestReleaseGoesOnAfterAPanic(t *testing.T) {
	server := redistest.Start(t)
	log := slog.New(&panicsOnce{Handler: slog.NewTextHandler(io.Discard, nil)})
	limiter := connectTo(t, server.URL(), patient, OnFailure(FailClosed), WithLogger(log))
	ctx, limit := context.Background(), InFlight("f", 1, time.Hour)
	d, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	redistest.Do(t, server.Client(t), "CONFIG", "SET", "min-replicas-to-write", "1") // so Redis rejects it
	assert.Panics(t, func() { limiter.Release(ctx, d) })
	redistest.Do(t, server.Client(t), "CONFIG", "SET", "min-replicas-to-write", "0")
	require.Eventually(t, func() bool {
		d, err := limiter.Peek(ctx, "ann", limit)
		return err == nil && d.Remaining == 1
	}, 20*time.Second, time.Millisecond)
}
