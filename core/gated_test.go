package core

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// gated is a limiter behind a gate, on an empty keyspace of its own.
type gated struct {
	*testing.T
	*redistest.Gate
	limiter *Limiter
	limit   Limit
}

func newGated(t *testing.T, max int, opts ...Option) gated {
	g := redistest.NewGate()
	client := redistest.Shared(t).Hooked(t, g.Hook)
	all := append([]Option{WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed)}, opts...)
	limiter, err := New(client, all...)
	require.NoError(t, err)
	t.Cleanup(func() {
		limiter.Close()
		close(g.Came) // nothing comes any more
	})
	return gated{t, g, limiter, PerHour("hot", max)}
}

// outcome is what an Allow came to. It is read after done.
type outcome struct {
	Decision
	err  error
	done chan struct{}
}

func (o *outcome) wait(t *testing.T) *outcome {
	t.Helper()
	redistest.Receive(t, o.done)
	return o
}

// allow asks in a goroutine of its own.
func (g gated) allow(ctx context.Context, key string, cost int, limits ...Limit) *outcome {
	o := &outcome{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.Decision, o.err = g.limiter.AllowN(ctx, key, cost, limits...)
	}()
	return o
}

// lead has two calls come to the gate, so that questions that come now wait.
func (g gated) lead() (outcomes []*outcome, calls []*redistest.Held) {
	for range 2 {
		outcomes = append(outcomes, g.allow(context.Background(), "lead", 1, g.limit))
		calls = append(calls, <-g.Came)
	}
	return outcomes, calls
}

// charged is how many units a log holds.
func (g gated) charged(key string) int {
	d, err := g.limiter.Peek(context.Background(), key, g.limit)
	require.NoError(g, err)
	return g.limit.Max - d.Remaining
}
