package core

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// limiters returns one of each kind, on empty logs.
func limiters(t *testing.T) map[string]*Limiter {
	redis, _, _ := onShared(t)
	return map[string]*Limiter{"in-process": newLocal(t), "redis": redis}
}

// newLocal returns a limiter without Redis, which the end of the test closes.
func newLocal(t *testing.T) *Limiter {
	limiter, err := NewInProcess()
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// connectTo returns a limiter that the end of the test closes.
func connectTo(t *testing.T, url string, opts ...Option) *Limiter {
	t.Helper()
	limiter, err := Connect(url, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// newOver returns a limiter that the end of the test closes, and that uses a client of the test's own.
func newOver(t *testing.T, client rueidis.Client, opts ...Option) *Limiter {
	t.Helper()
	limiter, err := New(client, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// onShared makes a limiter on the shared server, and returns what it takes to look at its logs there.
func onShared(t *testing.T) (limiter *Limiter, client rueidis.Client, prefix string) {
	client, prefix = redistest.Shared(t).Client(t), redistest.Prefix()
	return newOver(t, client, WithPrefix(prefix), patient, OnFailure(FailClosed)), client, prefix
}

// patient is for tests of what Redis decides, on a machine that may have other things to do.
var patient = WithTimeout(10 * time.Second)

// silent is for tests of what is told to callers and not to the log.
var silent = WithLogger(slog.New(slog.DiscardHandler))

// keys returns so many keys.
func keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	return keys
}

// user is one key of a limiter. An error fails the test.
type user struct {
	*testing.T
	limiter *Limiter
	key     string
	limits  []Limit
}

func (u user) allow(cost int, limits ...Limit) Decision {
	u.Helper()
	d, err := u.limiter.AllowN(context.Background(), u.key, cost, limits...)
	require.NoError(u, err)
	return d
}

func (u user) refund(d Decision) {
	u.Helper()
	require.NoError(u, u.limiter.Refund(context.Background(), d))
}

func (u user) release(d Decision) {
	u.Helper()
	require.NoError(u, u.limiter.Release(context.Background(), d))
}

// remain checks what remains of each of the limits.
func (u user) remain(want ...int) {
	u.Helper()
	d, err := u.limiter.Peek(context.Background(), u.key, u.limits...)
	require.NoError(u, err)
	var got []int
	for _, state := range d.States() {
		got = append(got, state.Remaining)
	}
	assert.Equal(u, want, got)
}
