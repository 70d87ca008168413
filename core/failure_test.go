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

	"github.com/exactlimit/exactlimit/internal/redistest"
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
	if words[0] != "EVALSHA" || words[len(words)-1] == "" { // a probe
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

// A call is not asked again when what it charged may have left the window, and so would be charged anew.
func TestNotAskedAgainAfterTheWindow(t *testing.T) {
	client := &flaky{Client: redistest.Shared(t).Client(t)}
	limiter, err := New(client, WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	limiter.redis.now = func() time.Duration { return 0 }
	begun := time.Now()
	limiter.redis.sender.now = func() time.Duration { return 10 * time.Duration(client.calls.Load()) * time.Millisecond }
	client.fails.Store(100)
	_, err = limiter.Allow(context.Background(), "ann", PerDay("day", 9), Limit{Name: "short", Max: 5, Window: 25 * time.Millisecond})
	assert.ErrorIs(t, err, io.EOF)
	assert.EqualValues(t, 3, client.calls.Load(), "at 0, 10 and 20 ms")
	assert.Less(t, time.Since(begun), 10*time.Second)
}

// A probe proves that calls work, by a refusal of the script's own, and writes nothing.
func TestProbe(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter, err := New(client)
	require.NoError(t, err)
	defer limiter.Close()
	about := &trouble{log: "exactlimit:{ann}:login:60000"}
	assert.NoError(t, limiter.redis.ping(about))
	redistest.Do(t, client, "SCRIPT", "FLUSH")
	assert.NoError(t, limiter.redis.ping(about), "an unknown script is sent")
	size, err := redistest.Do(t, client, "DBSIZE").AsInt64()
	require.NoError(t, err)
	assert.Zero(t, size)
	redistest.Do(t, client, "SET", about.log, "no log")
	assert.NoError(t, limiter.redis.ping(about), "one log is not Redis")
	redistest.Do(t, client, "ACL", "SETUSER", "default", "-evalsha")
	assert.ErrorContains(t, limiter.redis.ping(about), "NOPERM", "calls would not work")
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
		trouble := limiter.redis.single.trouble.Load()
		return trouble != nil && trouble.open.Load()
	}, 10*time.Second, time.Millisecond)
	places := len(limiter.redis.single.places)
	for i := range 3000 {
		assert.Equal(t, SourceInProcess, source(fmt.Sprint("key", i)))
	}
	assert.Equal(t, places, len(limiter.redis.single.places), "none of them was on its way to Redis")
	assert.Positive(t, places, "those that Redis owes a reply keep their places")

	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool { return source("ann") == SourceRedis }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return len(limiter.redis.single.places) == 0 }, 10*time.Second, time.Millisecond,
		"all places are free when Redis has answered")
	told := said.all()
	require.Len(t, told, 2, told)
	assert.Contains(t, told[0], "level=WARN")
	assert.Contains(t, told[0], "Redis does not answer; requests are decided without it")
	assert.Contains(t, told[1], "level=INFO")
	assert.Contains(t, told[1], "Redis answers again")
}

// A deadline of the caller's that is earlier than the timeout is kept too, and is no error: the policy decides.
func TestEarlierDeadline(t *testing.T) {
	g := newGated(t, 5, OnFailure(FailLocal)) // whose timeout is 10 seconds
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	o := g.allow(ctx, "ann", 1, g.limit)
	<-g.came
	o.wait(t)
	require.NoError(t, o.err)
	assert.Equal(t, SourceInProcess, o.Source)
	assert.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
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

// No request makes a connection, or it would wait for it.
func TestRequestsDoNotDial(t *testing.T) {
	_, err := ClientOption("")
	assert.ErrorIs(t, err, ErrInvalid)
	option, err := ClientOption("redis://127.0.0.1:1")
	require.NoError(t, err)
	d := deadlines{timeout: time.Second}
	for name, ctx := range map[string]context.Context{
		"a moment":            d.at(0),
		"the caller's":        undated(t.Context()),
		"with caller's words": &request{Context: t.Context(), end: d.at(0)},
	} {
		_, err = option.DialCtxFn(ctx, "127.0.0.1:1", &option.Dialer, nil)
		assert.ErrorIs(t, err, errNoConnection, name)
	}
	_, err = option.DialCtxFn(t.Context(), "127.0.0.1:1", &option.Dialer, nil)
	assert.ErrorContains(t, err, "refused")
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
	nodeOf := func(key string) int { return slot(string(appendLogKey(nil, "p", key, limit))) * 3 / slots }
	var byNode [3][]string
	for _, key := range keys(300) {
		require.Eventually(t, func() bool { return redis(key) }, 10*time.Second, time.Millisecond)
		// But for those whose range of slots has another node's slots in it too.
		if first := slot(string(appendLogKey(nil, "p", key, limit))) / (slots / links) * (slots / links); first*3/slots == (first+slots/links-1)*3/slots {
			byNode[nodeOf(key)] = append(byNode[nodeOf(key)], key)
		}
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

// Slots are those that Redis says.
func TestSlot(t *testing.T) {
	client := redistest.StartCluster(t, 1, 0).Masters[0].Single(t)
	for _, key := range []string{"ann", "a", "{", "{{", "{a", "127.0.0.1", "ünïcode", strings.Repeat("x", 128), "\x00\xff", "%7D", "a b"} {
		log := string(appendLogKey(nil, "exactlimit", canonicalKey(key), PerMinute("login", 5)))
		want, err := redistest.Do(t, client, "CLUSTER", "KEYSLOT", log).AsInt64()
		require.NoError(t, err)
		assert.EqualValues(t, want, slot(log), "%q", log)
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
		require.Len(t, said.all(), 1, row)
		assert.Contains(t, said.all()[0], row.says)
		assert.Contains(t, said.all()[0], "node="+server.Addr)
	}
	assert.Equal(t, []string{"Redis 6.2.14 is too old: 7.0 or later is needed"}, warnings("# Server\r\nredis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"))
	assert.Empty(t, warnings("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n"))
	assert.Empty(t, warnings("nothing that it knows"))
}

// An outage is told of once for all links, and not again within ten seconds.
func TestOutage(t *testing.T) {
	said := &record{}
	o := outage{log: slog.New(slog.NewTextHandler(said, nil))}
	down := errors.New("refused")
	var latest *trouble
	begin := func(at time.Duration) {
		latest = &trouble{since: at}
		latest.cause.Store(&down)
		o.begin(latest)
	}
	second := time.Second
	begin(1 * second)
	begin(2 * second)
	o.end(3 * second)
	o.end(4 * second)
	for at := 5 * second; at < 9*second; at += second {
		begin(at)
		o.end(at + second/2)
	}
	begin(11 * second)
	o.end(12 * second)
	begin(13 * second) // not told of, as it comes so soon
	o.goesOn(latest, 20*second)
	require.Len(t, said.all(), 4)
	o.goesOn(latest, 21*second) // but it goes on
	o.goesOn(latest, 22*second)
	o.end(23 * second)
	told := said.all()
	require.Len(t, told, 6)
	assert.Contains(t, told[4], "does not answer")
	assert.Contains(t, told[5], "after=10s")
	assert.Contains(t, told[0], "does not answer; requests are decided without it\" error=refused")
	assert.NotContains(t, told[0], "times")
	assert.Contains(t, told[1], "answers again\" after=3s")
	assert.Contains(t, told[2], "\"times before\"=4")
	assert.Contains(t, told[3], "after=1s")
}
