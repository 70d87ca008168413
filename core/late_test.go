package core

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// lateCancel is a context that is cancelled just after the caller has left for another reason: nothing announces it.
type lateCancel struct {
	context.Context
	cancelled atomic.Bool
}

func (c *lateCancel) Done() <-chan struct{} { return nil }

func (c *lateCancel) Err() error {
	if c.cancelled.Load() {
		return context.Canceled
	}
	return nil
}

// Row 5 of "What got through". Redis grants a request whose caller has left. The charge stays if the failure policy has
// let the request go on, which the caller knows, and is given back if the caller got an error.
func TestLateGrants(t *testing.T) {
	// leave returns a context, and what ends the call once Redis has been asked.
	type leave func() (context.Context, func())
	cancelled := func() (context.Context, func()) { return context.WithCancel(context.Background()) }
	deadline := func() (context.Context, func()) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		return ctx, func() { <-ctx.Done(); cancel() }
	}
	timeout := func() (context.Context, func()) { return context.Background(), func() {} }
	both := func() (context.Context, func()) {
		ctx := &lateCancel{Context: context.Background()}
		return ctx, func() { ctx.cancelled.Store(true) } // which is before the timeout, and not seen until after it
	}
	closed := func(l *Limiter) *Limiter { return l.OnFailure(FailClosed) }
	open := func(l *Limiter) *Limiter { return l.OnFailure(FailOpen) }
	local := func(l *Limiter) *Limiter { return l.OnFailure(FailLocal) }
	dryRun := func(l *Limiter) *Limiter { return l.OnFailure(FailClosed).DryRun() }
	for name, row := range map[string]struct {
		view   func(*Limiter) *Limiter
		leave  leave
		source Source // of the decision that the caller gets, or noDecision
		stays  bool
	}{
		"closed, cancelled":          {closed, cancelled, noDecision, false},
		"closed, deadline":           {closed, deadline, noDecision, false},
		"closed, timeout":            {closed, timeout, noDecision, false},
		"closed, timeout, cancelled": {closed, both, noDecision, false},
		"local, cancelled":           {local, cancelled, noDecision, false},
		"local, deadline":            {local, deadline, SourceInProcess, true},
		"local, timeout":             {local, timeout, SourceInProcess, true},
		"local, timeout, cancelled":  {local, both, noDecision, false},
		"open, cancelled":            {open, cancelled, noDecision, false},
		"open, deadline":             {open, deadline, SourceFailOpen, true},
		"open, timeout":              {open, timeout, SourceFailOpen, true},
		"open, timeout, cancelled":   {open, both, noDecision, false},
		"dry run, timeout":           {dryRun, timeout, SourceFailOpen, true},
		"dry run, cancelled":         {dryRun, cancelled, noDecision, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, prefix := redistest.Shared(t).Client(t), redistest.Prefix()
			g := newGated(t, 5, WithPrefix(prefix), WithTimeout(100*time.Millisecond))
			witness := newOver(t, client, WithPrefix(prefix), patient, OnFailure(FailClosed))
			charged := func(key string) int {
				d, err := witness.Peek(context.Background(), key, g.limit)
				require.NoError(t, err)
				return g.limit.Max - d.Remaining
			}
			_, err := witness.AllowN(context.Background(), "full", 5, g.limit)
			require.NoError(t, err)
			g.limiter = row.view(g.limiter)
			ctx, end := row.leave()
			granted := g.allow(ctx, "ann", 3, g.limit)
			first := <-g.Came
			denied := g.allow(ctx, "full", 3, g.limit)
			second := <-g.Came
			end()
			for _, o := range []*outcome{granted, denied} {
				o.wait(t)
				if row.source == noDecision {
					assert.ErrorIs(t, o.err, ErrUnavailable)
				} else {
					assert.NoError(t, o.err)
					assert.Equal(t, row.source, o.Source)
				}
			}
			assert.Zero(t, charged("ann"))
			refunded := make(chan bool, 100)
			go func() {
				for call := range g.Came {
					assert.Contains(t, call.Words, "settle")
					call.Pass()
					refunded <- true
				}
			}()
			first.Pass()
			second.Pass()
			if row.stays {
				require.Eventually(t, func() bool { return charged("ann") == 3 }, 10*time.Second, time.Millisecond)
				g.limiter.Close() // which waits for all that is in flight
				assert.Equal(t, 3, charged("ann"))
			} else {
				redistest.Receive(t, refunded)
				require.Eventually(t, func() bool { return charged("ann") == 0 }, 10*time.Second, time.Millisecond)
			}
			assert.Equal(t, 5, charged("full"))
		})
	}
}

const noDecision Source = 255

// A request that is denied in this process, because Redis did not answer in time, is charged nowhere.
func TestLateGrantOfADeniedRequest(t *testing.T) {
	g := newGated(t, 5, WithTimeout(100*time.Millisecond), OnFailure(FailLocal))
	var d Decision
	g.limiter.inProcess.allow(&d, "ann", 5, []Limit{g.limit})
	require.True(t, d.Allowed)
	o := g.allow(context.Background(), "ann", 3, g.limit)
	first := <-g.Came
	o.wait(t)
	assert.Equal(t, SourceInProcess, o.Source)
	assert.False(t, o.Allowed)
	first.Pass()
	call := <-g.Came
	assert.Contains(t, call.Words, "settle")
	call.Pass()
	require.Eventually(t, func() bool {
		go func() { (<-g.Came).Pass() }()
		d, err := g.limiter.OnFailure(FailClosed).Peek(context.Background(), "ann", g.limit)
		return err == nil && d.Remaining == 5
	}, 10*time.Second, 10*time.Millisecond)
}

// What gives units back after its caller has left is noticed at once all the same, by the denial cache and by Wait.
func TestLateRoom(t *testing.T) {
	for name, free := range map[string]func(ctx context.Context, g gated, admitted Decision) error{
		"refund": func(ctx context.Context, g gated, admitted Decision) error {
			return g.limiter.Refund(ctx, admitted)
		},
		"reset": func(ctx context.Context, g gated, _ Decision) error { return g.limiter.Reset(ctx, "ann", g.limit) },
		"late grant": func(ctx context.Context, g gated, admitted Decision) error {
			if err := g.limiter.Refund(context.Background(), admitted); err != nil {
				return err
			}
			_, err := g.limiter.Allow(ctx, "ann", g.limit)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGated(t, 1, WithDenialCache(100, time.Hour))
			admitted := g.allow(context.Background(), "ann", 1, g.limit)
			(<-g.Came).Pass()
			require.True(t, admitted.wait(t).Allowed)
			ctx, cancel := context.WithCancel(context.Background())
			left := make(chan error)
			go func() { left <- free(ctx, g, admitted.Decision) }()
			late := <-g.Came
			if name == "late grant" {
				late.Pass()
				late = <-g.Came
			}
			cancel()
			require.ErrorIs(t, <-left, context.Canceled)
			if name == "late grant" {
				late.Pass()
				late = <-g.Came // which gives it back
			}

			waited := &outcome{done: make(chan struct{})}
			go func() {
				defer close(waited.done)
				waited.Decision, waited.err = g.limiter.Wait(context.Background(), "ann", g.limit)
			}()
			if name != "late grant" { // of which the denial cache knows that it was the last
				(<-g.Came).Pass()
			}
			require.Eventually(t, func() bool {
				q := g.limiter.waitQueues
				q.mu.Lock()
				defer q.mu.Unlock()
				return len(q.keys) == 1 && g.limiter.redis.denials.size(g.limiter.redis.now()) == 1
			}, 10*time.Second, time.Millisecond)
			late.Pass()
			redistest.Receive(t, g.Came).Pass() // which notices that there is room
			assert.True(t, waited.wait(t).Allowed)
		})
	}
}

// A caller that is cancelled leaves at once. If its question was not sent yet, it never is.
func TestCancelledBeforeItIsSent(t *testing.T) {
	g := newGated(t, 5)
	ctx, cancel := context.WithCancel(context.Background())
	lead, calls := g.lead()
	queued := g.allow(ctx, "ann", 5, g.limit)
	time.Sleep(20 * time.Millisecond)
	cancel()
	assert.ErrorIs(t, queued.wait(t).err, context.Canceled)
	honest := g.allow(context.Background(), "ann", 5, g.limit)
	calls[0].Pass()
	(<-g.Came).Pass()
	require.NoError(t, honest.wait(t).err)
	assert.True(t, honest.Allowed)
	calls[1].Pass()
	for _, o := range lead {
		assert.NoError(t, o.wait(t).err)
	}
}

// Row 5 of "What got through". Clients that abort all the time do not fill the limit for an honest one, whatever the
// policy.
func TestAbortingClientsDoNotFillTheLimit(t *testing.T) {
	// Redis is some way off, so that callers can leave while their calls are in flight.
	distant := redistest.Shared(t).Hooked(t, func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		time.Sleep(time.Millisecond)
		defer time.Sleep(time.Millisecond)
		return send()
	})
	for _, policy := range []FailurePolicy{FailLocal, FailOpen, FailClosed} {
		t.Run(policy.String(), func(t *testing.T) {
			limiter := newOver(t, distant, WithPrefix(redistest.Prefix()), patient, OnFailure(policy))
			limit := PerHour("login", 20)
			var all sync.WaitGroup
			var aborted atomic.Int64
			for range 32 {
				all.Go(func() {
					for range 20 {
						ctx, cancel := context.WithCancel(context.Background())
						timer := time.AfterFunc(time.Duration(rand.IntN(4000))*time.Microsecond, cancel)
						d, err := limiter.Allow(ctx, "office", limit)
						timer.Stop()
						cancel()
						switch {
						case err != nil:
							assert.ErrorIs(t, err, context.Canceled)
							aborted.Add(1)
						case d.Allowed: // its client has left before it could do anything
							assert.NoError(t, limiter.Refund(context.Background(), d))
						}
					}
				})
			}
			all.Wait()
			assert.Positive(t, aborted.Load())
			require.Eventually(t, func() bool {
				d, err := limiter.Peek(context.Background(), "office", limit)
				require.NoError(t, err)
				return d.Remaining == 20
			}, 10*time.Second, time.Millisecond)
			d, err := limiter.AllowN(context.Background(), "office", 20, limit)
			require.NoError(t, err)
			assert.True(t, d.Allowed)
		})
	}
}

// abandon has fifty calls about ann give up waiting for a server that hangs, once the limiter has reached it.
func abandon(t *testing.T, limiter *Limiter, server *redistest.Server, limit Limit) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := limiter.Peek(t.Context(), "ann", limit)
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, server.Pause())
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			_, err := limiter.Allow(t.Context(), "ann", limit)
			assert.ErrorIs(t, err, ErrUnavailable)
		})
	}
	all.Wait()
}

// requireGivenBack waits until ann is charged nothing.
func requireGivenBack(t *testing.T, limiter *Limiter, limit Limit) {
	t.Helper()
	require.Eventually(t, func() bool {
		d, err := limiter.Peek(t.Context(), "ann", limit)
		return err == nil && d.Remaining == limit.Max
	}, 20*time.Second, time.Millisecond)
}

// What a Redis grants that hung until the callers had left is given back too, even if the circuit breaker is open when
// it comes.
func TestLateGrantsOfAHungRedis(t *testing.T) {
	server := redistest.Start(t)
	limiter := connectTo(t, server.URL(), OnFailure(FailClosed), WithTimeout(20*time.Millisecond), silent)
	limit := PerHour("login", 1000)
	for range 3 {
		abandon(t, limiter, server, limit)
		require.Eventually(t, func() bool { // the breaker is open
			open, _ := limiter.redis.reporter.measure(0)
			return open == 1
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, server.Resume())
	}
	requireGivenBack(t, limiter, limit)
}

// So is what a Redis grants that hangs for so long that the connection is lost, so that no reply says what it has
// granted.
func TestLateGrantsOfALostConnection(t *testing.T) {
	server := redistest.Start(t)
	limiter := connectTo(t, server.URL()+"?write_timeout=100ms", OnFailure(FailClosed),
		WithTimeout(20*time.Millisecond),
		silent)
	limit, admin := PerHour("login", 1000), server.Client(t)
	abandon(t, limiter, server, limit)
	time.Sleep(1500 * time.Millisecond) // more than it takes until the client gives the connection up
	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool { // it executes what it had received
		info, err := redistest.Do(t, admin, "INFO", "commandstats").ToString()
		return err == nil && strings.Contains(info, "cmdstat_zadd:")
	}, 10*time.Second, time.Millisecond)
	requireGivenBack(t, limiter, limit)
}
