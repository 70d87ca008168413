package core

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// With Redis gone from the start each policy does as it says, for as many limits and units as a call has.
func TestPolicies(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	limiter := connectTo(t, server.URL(), silent)
	ctx, few, many := context.Background(), PerHour("few", 3), PerDay("many", 5)

	for i := range 5 {
		d, err := limiter.Allow(ctx, "local", few, many)
		require.NoError(t, err)
		assert.Equal(t, i < 3, d.Allowed, "exactly Max")
		assert.Equal(t, SourceInProcess, d.Source)
		assert.Equal(t, i >= 2, d.RetryAfter > 0)
	}
	d, err := limiter.Peek(ctx, "local", many)
	require.NoError(t, err)
	assert.Equal(t, 2, d.Remaining, "denied requests are not charged here either")
	d, err = limiter.AllowN(ctx, "local", 3, many)
	require.NoError(t, err)
	assert.False(t, d.Allowed)

	open := limiter.OnFailure(FailOpen)
	for range 5 {
		for _, decide := range []func() (Decision, error){
			func() (Decision, error) { return open.Allow(ctx, "open", few, many) },
			func() (Decision, error) { return open.Peek(ctx, "open", few, many) },
		} {
			d, err := decide()
			require.NoError(t, err)
			assert.True(t, d.Allowed)
			assert.Equal(t, SourceFailOpen, d.Source)
			assert.Equal(t, State{Limit: few, Remaining: 3}, d.State)
			assert.Equal(t, []State{{Limit: few, Remaining: 3}, {Limit: many, Remaining: 5}}, d.States())
		}
	}

	closed := limiter.OnFailure(FailClosed)
	for _, decide := range []func() (Decision, error){
		func() (Decision, error) { return closed.Allow(ctx, "closed", few) },
		func() (Decision, error) { return closed.Peek(ctx, "closed", few) },
	} {
		d, err := decide()
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.Zero(t, d)
	}
	d, err = limiter.Allow(ctx, "closed", few)
	require.NoError(t, err)
	assert.Equal(t, 2, d.Remaining, "a view changes nothing of what it was made from")

	assert.ErrorIs(t, limiter.Reset(ctx, "local", few), ErrUnavailable, "Redis may know of it")
	d, err = limiter.Peek(ctx, "local", few)
	require.NoError(t, err)
	assert.Equal(t, 3, d.Remaining, "but what is known here is forgotten")

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, limiter := range []*Limiter{limiter, open, closed} {
		_, err = limiter.Allow(cancelled, "gone", few)
		assert.ErrorIs(t, err, context.Canceled, "nobody waits for a decision")
	}
	require.NoError(t, closed.Close())
	_, err = limiter.Allow(ctx, "late", few)
	assert.ErrorIs(t, err, ErrUnavailable, "all views are closed together")
}

func TestPolicyNames(t *testing.T) {
	for policy, name := range map[FailurePolicy]string{
		FailLocal: "fail-local", FailOpen: "fail-open", FailClosed: "fail-closed", 7: "unknown",
	} {
		assert.Equal(t, name, policy.String())
	}
	assert.Equal(t, "fail-open", SourceFailOpen.String())
}
