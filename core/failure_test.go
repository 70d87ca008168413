package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/dispatch"
	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// With Redis gone from the start each policy does as it says, for as many limits and units as a call has.
func TestPolicies(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	limiter, err := Connect(server.URL(), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
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
	for policy, name := range map[FailurePolicy]string{FailLocal: "fail-local", FailOpen: "fail-open", FailClosed: "fail-closed", 7: "unknown"} {
		assert.Equal(t, name, policy.String())
	}
	assert.Equal(t, "fail-open", SourceFailOpen.String())
}

// flaky is a client whose script calls fail, in a way that the test chooses, as many times as it says.
type flaky struct {
	rueidis.Client
	fails atomic.Int32
	lose  bool // the request, rather than the reply
	calls atomic.Int32
}

func (f *flaky) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	if words[0] != "EVALSHA" || words[len(words)-1] == "probe" {
		return f.Client.Do(ctx, cmd)
	}
	f.calls.Add(1)
	if f.fails.Add(-1) < 0 {
		return f.Client.Do(ctx, cmd)
	}
	if !f.lose {
		f.Client.Do(ctx, cmd)
	}
	return rueidis.NewErrorResult(io.EOF)
}

// What is asked again is charged once, be it the request that was lost or the reply.
func TestAskedAgainChargedOnce(t *testing.T) {
	for _, lose := range []bool{false, true} {
		client := &flaky{Client: redistest.Shared(t).Client(t), lose: lose}
		prefix := redistest.Prefix()
		limiter, err := New(client, WithPrefix(prefix), patient, OnFailure(FailClosed))
		require.NoError(t, err)
		defer limiter.Close()
		ctx, limit, other := context.Background(), PerHour("a", 4), PerHour("b", 9)
		charged := func(limit Limit) int64 {
			n, err := redistest.Do(t, client.Client, "ZCARD", string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
			require.NoError(t, err)
			return n
		}
		for i, row := range []struct {
			cost          int
			limits        []Limit
			allowed       bool
			remaining     int
			chargedA, toB int64
		}{
			{1, []Limit{limit}, true, 3, 1, 0},
			{2, []Limit{limit, other}, true, 1, 3, 2},
			{2, []Limit{limit, other}, false, 1, 3, 2},
			{1, []Limit{limit}, true, 0, 4, 2}, // the last unit, which a replay must not find taken
			{1, []Limit{limit, other}, false, 0, 4, 2},
		} {
			client.fails.Store(2)
			d, err := limiter.AllowN(ctx, "ann", row.cost, row.limits...)
			require.NoError(t, err, i)
			assert.Equal(t, row.allowed, d.Allowed, i)
			assert.Equal(t, row.remaining, d.Remaining, i)
			assert.Equal(t, row.chargedA, charged(limit), i)
			assert.Equal(t, row.toB, charged(other), i)
		}
	}
}

// A call is not sent again when what it charged may have expired, and so would be charged anew.
func TestNotAskedAgainAfterTheWindow(t *testing.T) {
	client := &flaky{Client: redistest.Shared(t).Client(t)}
	limiter, err := New(client, WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	client.fails.Store(100)
	_, err = limiter.Allow(context.Background(), "ann", PerDay("day", 9), Limit{Name: "short", Max: 5, Window: time.Millisecond})
	assert.ErrorIs(t, err, io.EOF)
	assert.Less(t, client.calls.Load(), int32(10), "it is given up before all attempts are used")
}

// slow is a client that loses the reply of the first call after some time, and whose second call takes its time too.
type slow struct {
	rueidis.Client
	takes [2]time.Duration
	calls atomic.Int32
}

func (s *slow) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	if words[0] != "EVALSHA" || words[len(words)-1] == "probe" {
		return s.Client.Do(ctx, cmd)
	}
	if n := s.calls.Add(1); n > 1 {
		time.Sleep(s.takes[1])
		return s.Client.Do(ctx, cmd)
	}
	s.Client.Do(ctx, cmd)
	time.Sleep(s.takes[0])
	return rueidis.NewErrorResult(io.EOF)
}

// A call that is sent again within the window may arrive after it, and would be charged twice. So it is sent again within
// half of the window only.
func TestNotAskedAgainLate(t *testing.T) {
	limit := Limit{Name: "a", Max: 5, Window: 400 * time.Millisecond}
	server := redistest.Start(t, redistest.AppendOnly...)
	client := &slow{Client: server.Client(t), takes: [2]time.Duration{240 * time.Millisecond, 200 * time.Millisecond}}
	redistest.Do(t, client.Client, "SCRIPT", "LOAD", lua.Decide) // or the first call may have no effect
	limiter, err := New(client, WithPrefix("p"), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	_, err = limiter.Allow(context.Background(), "ann", limit)
	assert.ErrorIs(t, err, io.EOF)
	assert.Len(t, server.Admissions(t)[string(appendLogKey(nil, "p", "ann", limit))], 1)
}

// record is a log that the test reads.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *record) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *record) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(strings.Lines(l.text.String()))
}

// A Redis that hangs holds nobody up for longer than the timeout, and nobody at all once that is known. When it goes on, so
// do calls to it. The outage and its end are told of once.
func TestHungRedis(t *testing.T) {
	server := redistest.Start(t)
	said := &record{}
	limiter, err := Connect(server.URL(), WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	ctx, limit := context.Background(), PerHour("hung", 10_000)
	source := func(key string) Source {
		d, err := limiter.Allow(ctx, key, limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		return d.Source
	}
	// Not all at once on a machine that may be slow: whoever waits too long for Redis is decided without it.
	require.Eventually(t, func() bool { return source("ann") == SourceRedis }, 10*time.Second, time.Millisecond)
	require.NoError(t, server.Pause())
	var all sync.WaitGroup
	for i := range 3000 { // more than can be on their way at a time
		all.Go(func() {
			d, err := limiter.Allow(ctx, fmt.Sprint("key", i), limit)
			assert.NoError(t, err)
			assert.Equal(t, SourceInProcess, d.Source)
		})
	}
	all.Wait()
	require.Eventually(t, func() bool { // half a timeout after the first calls have ended
		open, _ := limiter.redis.reporter.measure(0)
		return open == 1
	}, 10*time.Second, time.Millisecond)
	for i := range 3000 {
		assert.Equal(t, SourceInProcess, source(fmt.Sprint("key", i)))
	}

	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool { return source("ann") == SourceRedis }, 10*time.Second, time.Millisecond)
	told := said.all()
	require.Len(t, told, 2, told)
	assert.Contains(t, told[0], "level=WARN")
	assert.Contains(t, told[0], "Redis does not answer; requests are decided without it")
	assert.Contains(t, told[1], "level=INFO")
	assert.Contains(t, told[1], "Redis decides again")
}

// A deadline of the caller's that is earlier than the timeout is kept too, and is no error: the policy decides.
func TestEarlierDeadline(t *testing.T) {
	g := newGated(t, 5, OnFailure(FailLocal)) // whose timeout is 10 seconds
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	o := g.allow(ctx, "ann", 1, g.limit)
	call := <-g.came
	o.wait(t)
	require.NoError(t, o.err)
	assert.Equal(t, SourceInProcess, o.Source)
	assert.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
	call.pass <- nil
}

// A connection that is lost, with calls under way or without, is made by a probe and costs no call more than a second attempt.
func TestLostConnections(t *testing.T) {
	server := redistest.Start(t)
	limiter, err := Connect(server.URL(), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	admin := server.Client(t)
	kill := func() { redistest.Do(t, admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }
	ctx, limit := context.Background(), PerHour("killed", 1_000_000)
	for range 20 {
		kill() // nobody is under way
		d, err := limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, SourceRedis, d.Source)
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	var calls atomic.Int64
	for i := range 20 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := limiter.Allow(ctx, fmt.Sprint("key", i), limit)
				if !assert.NoError(t, err) {
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 50 {
		time.Sleep(20 * time.Millisecond)
		kill()
	}
	close(stop)
	all.Wait()
	assert.Greater(t, calls.Load(), int64(100))
}

// A node of a cluster that hangs costs its own keys alone.
func TestHungNode(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, "cluster-require-full-coverage no") // or the others refuse theirs too
	limiter, err := Connect(cluster.URL())
	require.NoError(t, err)
	defer limiter.Close()
	ctx, limit := context.Background(), PerHour("a", 1_000_000)
	redis := func(key string) bool {
		d, err := limiter.Allow(ctx, key, limit)
		require.NoError(t, err)
		return d.Source == SourceRedis
	}
	nodeOf := func(key string) int {
		n, err := redistest.Do(t, cluster.Masters[0].Single(t), "CLUSTER", "KEYSLOT", "{"+key+"}").AsInt64()
		require.NoError(t, err)
		return int(n) * 3 / 16384
	}
	var byNode [3][]string
	for _, key := range keys(300) {
		require.Eventually(t, func() bool { return redis(key) }, 10*time.Second, time.Millisecond)
		byNode[nodeOf(key)] = append(byNode[nodeOf(key)], key)
	}
	require.NoError(t, cluster.Masters[1].Pause())
	var all sync.WaitGroup
	for i := range 3000 { // more than can be on their way to it
		all.Go(func() {
			d, err := limiter.Allow(ctx, byNode[1][i%len(byNode[1])], limit)
			assert.NoError(t, err)
			assert.Equal(t, SourceInProcess, d.Source)
		})
	}
	all.Wait()
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); { // until the others know
		for _, key := range byNode[1] {
			require.False(t, redis(key))
		}
		for _, node := range []int{0, 2} {
			for _, key := range byNode[node][:10] {
				require.Eventually(t, func() bool { return redis(key) }, 10*time.Second, time.Millisecond)
			}
		}
	}
	require.NoError(t, cluster.Masters[1].Resume())
	for _, key := range byNode[1] {
		require.Eventually(t, func() bool { return redis(key) }, 20*time.Second, time.Millisecond)
	}
}

// What would lose counts is said when the limiter is made, and is no error.
func TestWarnings(t *testing.T) {
	server := redistest.Start(t)
	for _, row := range []struct {
		policy, right, says string
	}{
		{"noeviction", "+info", ""},
		{"allkeys-lru", "+info", "set maxmemory-policy noeviction, not allkeys-lru"},
		{"volatile-ttl", "+info", "set maxmemory-policy noeviction, not volatile-ttl"},
		{"allkeys-lru", "-info", ""}, // not for us to know
	} {
		client, said := server.Client(t), &record{}
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory-policy", row.policy)
		redistest.Do(t, client, "ACL", "SETUSER", "default", row.right)
		limiter, err := New(client, WithLogger(slog.New(slog.NewTextHandler(said, nil))))
		require.NoError(t, err)
		require.NoError(t, limiter.Close())
		if row.says == "" {
			assert.Empty(t, said.all(), row)
			continue
		}
		require.Len(t, said.all(), 1, row) // Close has waited for it
		assert.Contains(t, said.all()[0], row.says)
		assert.Contains(t, said.all()[0], "node="+server.Addr)
	}
	assert.Equal(t, []string{"Redis 6.2.14 is too old: 7.0 or later is needed"}, warnings("# Server\r\nredis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"))
	assert.Empty(t, warnings("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n"))
	assert.Empty(t, warnings("nothing that it knows"))
}

// Outages and rejections are reported apart: each at most every ten seconds, an outage once, and only if a caller had no
// decision.
func TestReports(t *testing.T) {
	down, silent, late := errors.New("refused"), errors.New("EOF"), context.DeadlineExceeded
	type step struct {
		at   int // seconds
		does string
		says string
	}
	const dead, again = "WARN Redis does not answer; requests are decided without it", "INFO Redis decides again"
	const rejects = "WARN Redis rejects calls; requests are decided without it"
	for name, timeline := range map[string][]step{
		"an outage of several breakers is one": {
			{1, "open", dead + " error=refused"}, {2, "open", ""}, {3, "close", ""}, {4, "close", again + " after=3s"},
		},
		"it is told of once, however long it lasts": {
			{1, "open", dead + " error=refused"}, {20, "undecided", ""}, {40, "undecided", ""},
			{61, "close", again + " after=1m0s"}, {62, "open", dead + " error=refused"},
		},
		"one that begins too soon after the last report is told of if it lasts": {
			{1, "open", dead + " error=refused"}, {2, "close", again + " after=1s"},
			{3, "open", ""}, {4, "close", ""},
			{5, "open", ""}, {10, "undecided", ""}, {11, "undecided", dead + " error=EOF"}, {12, "undecided", ""},
			{15, "close", again + " after=10s"},
		},
		"a call that is late is none": {
			{1, "late", ""}, {2, "open", dead + " error=refused"}, {3, "late", ""}, {4, "close", again + " after=2s"},
		},
		"calls that are lost are told of": {
			{1, "undecided", dead + " error=EOF"}, {2, "undecided", ""}, {11, "undecided", dead + " error=EOF"},
		},
		"rejections": {
			{1, "reject", rejects + " error=NOPERM"}, {10, "reject", ""},
			{11, "reject", rejects + " error=NOPERM"}, {12, "reject", ""},
		},
		"an outage just after a rejection": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open", dead + " error=refused"}, {3, "reject", ""},
			{4, "close", again + " after=2s"},
		},
		"a rejection in an outage": {
			{1, "open", dead + " error=refused"}, {2, "reject", rejects + " error=NOPERM"}, {3, "close", again + " after=2s"},
		},
		"a breaker that rejections open": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""}, {3, "reject", ""}, {4, "close", again + " after=2s"},
			{5, "open", dead + " error=refused"}, {6, "close", again + " after=1s"},
		},
		"a breaker that rejections open again and again": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""}, {3, "close", again + " after=1s"},
			{4, "open by rejections", ""}, {5, "close", ""}, {6, "open by rejections", ""}, {7, "close", ""},
			{11, "open by rejections", rejects + " error=NOPERM"}, {12, "close", again + " after=1s"},
		},
		"and then Redis does not answer": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""},
			{3, "undecided", dead + " error=EOF"}, {4, "close", again + " after=2s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			said := &record{}
			r := &reporter{logger: slog.New(slog.NewTextHandler(said, nil))}
			for i, s := range timeline {
				before, at := len(said.all()), time.Duration(s.at)*time.Second
				switch s.does {
				case "open":
					r.changed(dispatch.HalfOpen, dispatch.Open, at, at, down)
				case "open by rejections":
					r.changed(dispatch.HalfOpen, dispatch.Open, at, at, rejection(t))
				case "close":
					r.changed(dispatch.Open, dispatch.Closed, at, at, nil)
				case "undecided":
					r.undecided(silent, at)
				case "late":
					r.undecided(late, at)
				case "reject":
					r.undecided(rejection(t), at)
				}
				told := said.all()[before:]
				if s.says == "" {
					assert.Empty(t, told, i)
					continue
				}
				require.Len(t, told, 1, i)
				level, rest, _ := strings.Cut(s.says, " ")
				text, attribute, _ := strings.Cut(rest, " error=")
				text, after, _ := strings.Cut(text, " after=")
				assert.Contains(t, told[0], "level="+level+` msg="exactlimit: `+text+`"`)
				assert.Contains(t, told[0], attribute)
				assert.Contains(t, told[0], after)
			}
		})
	}
}

// An outage that begins before the limiter does is measured from the limiter's start.
func TestMeasureBeforeRedisComes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	limiter, err := Connect(server.URL(), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	time.Sleep(20 * time.Millisecond)
	before := limiter.redis.state()
	assert.Equal(t, 1, before.openBreakers)
	assert.GreaterOrEqual(t, before.outage, 20*time.Millisecond)
	require.NoError(t, server.Start())
	last := before
	require.Eventually(t, func() bool {
		state := limiter.redis.state()
		assert.GreaterOrEqual(t, state.outage, last.outage)
		last = state
		return state.openBreakers == 0
	}, 10*time.Second, time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	assert.Equal(t, last.outage, limiter.redis.state().outage, "it is over")

	limiter, err = Connect(server.URL())
	require.NoError(t, err)
	defer limiter.Close()
	assert.Zero(t, limiter.redis.state().outage)
}

// Breakers that are open at the same time are one outage in the metrics too.
func TestMeasure(t *testing.T) {
	r := &reporter{logger: slog.New(slog.DiscardHandler)}
	const second = time.Second
	change := func(from, to dispatch.State, at time.Duration) { r.changed(from, to, at, at, io.EOF) }
	change(dispatch.HalfOpen, dispatch.Open, 1*second)
	change(dispatch.HalfOpen, dispatch.Open, 2*second)
	open, total := r.measure(3 * second)
	assert.Equal(t, 2, open)
	assert.Equal(t, 2*second, total)
	change(dispatch.Open, dispatch.Closed, 4*second)
	change(dispatch.Closed, dispatch.HalfOpen, 5*second)
	change(dispatch.HalfOpen, dispatch.Closed, 5*second)
	change(dispatch.Open, dispatch.Closed, 6*second)
	change(dispatch.HalfOpen, dispatch.Open, 9*second)
	open, total = r.measure(10 * second)
	assert.Equal(t, 1, open)
	assert.Equal(t, 6*second, total)
}

// rejection returns an error of the server whose text names a key.
func rejection(t *testing.T) error {
	client := redistest.Shared(t).Client(t)
	const script = "return redis.error_reply('NOPERM no rights to {ann}')"
	return client.Do(context.Background(), client.B().Eval().Script(script).Numkeys(0).Build()).Error()
}

// Row 19 of "What got through": a client of the user's own, with any settings, whose Redis hangs holds up neither calls nor
// Close. All of them return before Redis goes on, also where the client itself would wait for an hour.
func TestPlainClientAndAHungRedis(t *testing.T) {
	for name, option := range map[string]rueidis.ClientOption{
		"plain":                          {},
		"plain, patient":                 {ConnWriteTimeout: time.Hour},
		"DisableAutoPipelining":          {DisableAutoPipelining: true},
		"DisableAutoPipelining, patient": {DisableAutoPipelining: true, ConnWriteTimeout: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			option.InitAddress, option.DisableCache = []string{server.Addr}, true
			client, err := rueidis.NewClient(option)
			require.NoError(t, err)
			defer client.Close()
			limiter, err := New(client, WithLogger(slog.New(slog.DiscardHandler)))
			require.NoError(t, err)
			limit := PerHour("a", 9)
			require.Eventually(t, func() bool {
				d, err := limiter.Allow(context.Background(), "ann", limit)
				return err == nil && d.Source != SourceInProcess
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, server.Pause())
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				for range 2 { // before the breaker opens, and after
					var all sync.WaitGroup
					for i := range 50 {
						all.Go(func() {
							d, err := limiter.Allow(context.Background(), fmt.Sprint("key", i), limit)
							assert.NoError(t, err)
							assert.Equal(t, SourceInProcess, d.Source)
						})
					}
					all.Wait()
				}
				assert.NoError(t, limiter.Close())
			}()
			select {
			case <-returned:
			case <-time.After(30 * time.Second):
				t.Error("a call or Close waits for Redis")
			}
			require.NoError(t, server.Resume())
			<-returned
		})
	}
}

// busy is a client that knows how many calls are in flight.
type busy struct {
	rueidis.Client
	inFlight, calls atomic.Int32
}

func (b *busy) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	b.calls.Add(1)
	b.inFlight.Add(1)
	defer b.inFlight.Add(-1)
	time.Sleep(time.Millisecond)
	return b.Client.Do(ctx, cmd)
}

// Row 26 of "What got through": Close waits for calls, so the client can be closed after it.
func TestCloseAfterNewWaitsForCalls(t *testing.T) {
	for range 20 {
		client := &busy{Client: redistest.Shared(t).Client(t)}
		limiter, err := New(client, WithPrefix(redistest.Prefix()), patient)
		require.NoError(t, err)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				for {
					key, limit := fmt.Sprint("key", i), PerHour("a", 1000)
					_, err := limiter.OnFailure(FailClosed).Allow(context.Background(), key, limit)
					if err != nil {
						assert.ErrorContains(t, err, "closed")
						return
					}
				}
			})
		}
		for client.calls.Load() < 10 {
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, limiter.Close())
		calls := client.calls.Load()
		assert.Zero(t, client.inFlight.Load())
		all.Wait()
		assert.Equal(t, calls, client.calls.Load(), "none begins later")
	}
}
