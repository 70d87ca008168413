package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// The first questions go by themselves, until as many calls are in flight as may be. Those that come then go
// together, in the order in which they came.
func TestQuestionsGatherWhileCallsAreInFlight(t *testing.T) {
	d, g := gated(t)
	first, calls := d.busy(g)
	others := d.queue(context.Background(), "a", "b", "c", "a")
	calls[0].pass <- nil
	batch := <-g.came
	assert.Equal(t, []string{"a", "b", "c", "a"}, names(batch.words))
	batch.pass <- nil
	for i, o := range others {
		require.NoError(t, o.wait(t).err)
		assert.EqualValues(t, []int{1, 1, 1, 2}[i], o.count, "each has its own answer")
	}
	for i, o := range first {
		if i > 0 {
			calls[i].pass <- nil
		}
		assert.NoError(t, o.wait(t).err)
	}
	slices.Sort(d.calls)
	assert.Equal(t, append(slices.Repeat([]int{1}, maxWorkers), 4), d.calls)
}

// A call has a bounded size, and questions that are alike count once.
func TestSizeOfACall(t *testing.T) {
	for name, row := range map[string]struct {
		questions func(i int) *question
		sizes     []int
	}{
		"small":        {func(i int) *question { return &question{key: fmt.Sprint(i)} }, []int{128, 128, 128}},
		"large":        {func(i int) *question { return &question{key: fmt.Sprint(i), size: 50} }, []int{2, 2, 2}},
		"very large":   {func(i int) *question { return &question{key: fmt.Sprint(i), size: 1000} }, []int{1, 1, 1}},
		"alike":        {func(int) *question { return &question{key: "a", size: 50} }, []int{512, 512, 512}},
		"then another": {func(i int) *question { return &question{key: fmt.Sprint(i / 100)} }, []int{512, 512, 512}},
	} {
		d := &Dispatcher[*question]{}
		l := newLink(d)
		l.maxWorkers = 0 // no worker starts
		for i := range 2000 {
			require.NoError(t, l.push(row.questions(i)))
		}
		var sizes []int
		for range row.sizes {
			questions, ok := l.take(nil)
			require.True(t, ok)
			sizes = append(sizes, len(questions))
		}
		assert.Equal(t, row.sizes, sizes, name)
	}
}

// Questions that come at once while one worker is idle wake others too, once it has taken as many as go together.
func TestNoWakeupIsLost(t *testing.T) {
	d, g := gated(t)
	o := d.ask(context.Background(), d.about("a"))
	(<-g.came).pass <- nil
	require.NoError(t, o.wait(t).err)
	l := d.nodes.link(0)
	d.eventually(func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.idle == 1 && l.workers == 1 })
	l.mu.Lock() // so that the worker wakes when all are there
	for i := range 2 * maxSize {
		q := d.about(fmt.Sprint(i))
		q.begin(0)
		l.queue = append(l.queue, q)
		l.wakeWorker()
	}
	l.mu.Unlock()
	for range 2 {
		call := <-g.came // the second comes while the first is in flight
		assert.Len(t, names(call.words), maxSize)
		defer func() { call.pass <- nil }()
	}
}

// A question that the script did not get to is asked again before all that wait, in its place, and is answered once.
func TestAskedAgain(t *testing.T) {
	d, g := gated(t)
	first, calls := d.busy(g)
	var again []*outcome
	for i, times := range []int{0, 1, 2} {
		q := d.about(fmt.Sprint("again", i))
		q.again = times
		again = append(again, d.ask(context.Background(), q))
		d.eventually(func() bool { return d.waiting() == i+1 })
	}
	calls[0].pass <- nil
	call := <-g.came
	assert.Equal(t, []string{"again0", "again1", "again2"}, names(call.words))
	behind := d.queue(context.Background(), "b", "c")
	call.pass <- nil
	require.NoError(t, again[0].wait(t).err)
	call = <-g.came
	assert.Equal(t, []string{"again1", "again2", "b", "c"}, names(call.words))
	call.pass <- nil
	require.NoError(t, again[1].wait(t).err)
	call = <-g.came
	assert.Equal(t, []string{"again2"}, names(call.words))
	call.pass <- nil
	for _, o := range append(behind, again[2]) {
		require.NoError(t, o.wait(t).err)
	}
	for _, call := range calls[1:] {
		call.pass <- nil
	}
	for _, o := range first {
		o.wait(t)
	}
	assert.Empty(t, d.late)
}

// A caller whose context ends leaves at once. If its question was not sent, it never is; if it was, the answer is
// told of.
func TestCallersLeave(t *testing.T) {
	for name, row := range map[string]struct {
		end       func() (context.Context, func())
		err       error
		cancelled bool
	}{
		"cancelled": {func() (context.Context, func()) {
			ctx, cancel := context.WithCancel(context.Background())
			return ctx, cancel
		}, context.Canceled, true},
		"deadline": {func() (context.Context, func()) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, context.DeadlineExceeded, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, g := gated(t)
			first, calls := d.busy(g)
			ctx, end := row.end()
			calls[0].pass <- nil
			sent := d.ask(ctx, d.about("sent"))
			call := <-g.came
			waits := d.ask(ctx, d.about("waits"))
			behind := d.ask(context.Background(), d.about("behind"))
			end()
			assert.ErrorIs(t, sent.wait(t).err, row.err)
			assert.ErrorIs(t, waits.wait(t).err, row.err)
			assert.Empty(t, d.late, "Redis has not answered")
			call.pass <- nil
			assert.Equal(t, d.prefix+"sent", <-d.late)
			call = <-g.came
			assert.Equal(t, []string{"behind"}, names(call.words))
			call.pass <- nil
			assert.NoError(t, behind.wait(t).err)
			for i, o := range first {
				if i > 0 {
					calls[i].pass <- nil
				}
				assert.NoError(t, o.wait(t).err)
			}
			assert.Empty(t, d.late)
			if row.cancelled {
				assert.Zero(t, d.timeouts.Load())
			} else {
				assert.EqualValues(t, 2, d.timeouts.Load())
			}
		})
	}
}

// Those that come when too many wait are turned away, and the others are not held up.
func TestFullQueue(t *testing.T) {
	d, g := gated(t)
	d.nodes.link(0).maxQueue = 3
	first, calls := d.busy(g)
	waiting := d.queue(context.Background(), "a", "b", "c")
	for range 3 {
		assert.ErrorIs(t, d.Do(context.Background(), d.about("late")), ErrQueueFull)
	}
	calls[0].pass <- nil
	call := <-g.came
	last := d.queue(context.Background(), "d")
	for _, call := range append(calls[1:], call) {
		call.pass <- nil
	}
	(<-g.came).pass <- nil
	for _, o := range slices.Concat(first, waiting, last) {
		assert.NoError(t, o.wait(t).err)
	}
	assert.Empty(t, d.changed(), "a queue is no outage")
}

// Close waits for the calls in flight, whose questions are answered; those that wait are not asked.
func TestCloseWaitsForCallsInFlight(t *testing.T) {
	d, g := gated(t)
	first, calls := d.busy(g)
	waiting := d.queue(context.Background(), "a", "b")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		d.Close()
	}()
	for _, o := range waiting {
		assert.ErrorIs(t, o.wait(t).err, ErrClosed)
	}
	assert.ErrorIs(t, d.Do(context.Background(), d.about("late")), ErrClosed)
	select {
	case <-closed:
		t.Error("calls are in flight")
	default:
	}
	for _, call := range calls {
		call.pass <- nil
	}
	for _, o := range first {
		assert.NoError(t, o.wait(t).err)
	}
	<-closed
	d.Close()
}

// Close ends it all when a bit of everything is under way: every caller returns, and no goroutine is left (see
// TestMain).
func TestCloseDuringEverything(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(1, seed))
		var n atomic.Uint64
		do := func(ctx context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
			switch n.Add(1) % 17 {
			case 3:
				return rueidis.NewErrorResult(io.EOF)
			case 5:
				send()
				return rueidis.NewErrorResult(io.EOF)
			case 7:
				panic("in a hook")
			case 11:
				time.Sleep(time.Millisecond)
			}
			return send()
		}
		d := start(t, do, func(c *Config[*question]) { c.Timeout = 20 * time.Millisecond })
		var all sync.WaitGroup
		for g := range 64 {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			all.Go(func() {
				for {
					q := d.about(fmt.Sprint(random.IntN(10)))
					q.again = random.IntN(30) - 27
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(4000))*time.Microsecond)
					if random.IntN(4) == 0 {
						cancel()
					}
					err := d.Do(ctx, q)
					cancel()
					switch {
					case err == nil:
						assert.Positive(t, q.count)
					case d.closing.Err() != nil:
						return
					}
				}
			})
		}
		all.Go(func() {
			for range d.late {
			}
		})
		time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		d.Close()
		close(d.late)
		all.Wait()
		assert.Zero(t, d.waiting())
	}
}

// A question may be asked anew as soon as it is answered, so nothing may look at it afterwards. The race detector
// sees it.
func TestQuestionsAreReused(t *testing.T) {
	var n atomic.Uint64
	d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if isCall(words) && n.Add(1)%10 == 0 {
			return rueidis.NewErrorResult(io.EOF)
		}
		return send()
	})
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			q := &question{}
			last := int64(0)
			for i := range 300 {
				q.key, q.again, q.count = d.prefix+fmt.Sprint(g%4), i%5-3, 0
				if !assert.NoError(t, d.Do(context.Background(), q)) {
					return
				}
				if !assert.Greater(t, q.count, last, "an answer of another question") {
					return
				}
				last = q.count
			}
		})
	}
	all.Wait()
	for i := range 4 {
		n, err := redistest.Do(t, d.client.Client, "SCARD", d.prefix+fmt.Sprint(i)).AsInt64()
		require.NoError(t, err)
		assert.EqualValues(t, 8*(300+60), n, "each is counted once, or twice if the script is said not to have got to it")
	}
}

// rejection returns an error of the server.
func rejection(t *testing.T, text string) error {
	client := redistest.Shared(t).Client(t)
	err := client.Do(context.Background(), client.B().Eval().Script("return redis.error_reply(ARGV[1])").Numkeys(0).Arg(text).Build()).Error()
	require.EqualError(t, err, strings.TrimPrefix(text, "ERR ")) // which rueidis leaves out
	return err
}

// What fails is asked again if this can help, with the same id, and if not its callers know at once.
func TestEveryError(t *testing.T) {
	broken := errors.New("something of the client's own")
	for name, row := range map[string]struct {
		err   error
		times int // how many calls fail
		calls int // how many there are for one question
		fails bool
	}{
		"EOF once":             {err: io.EOF, times: 1, calls: 2},
		"EOF nine times":       {err: io.EOF, times: 9, calls: 10},
		"EOF for good":         {err: io.EOF, times: 1 << 30, calls: 10, fails: true},
		"of the client's own":  {err: broken, times: 2, calls: 3},
		"closing":              {err: rueidis.ErrClosing, times: 1 << 30, calls: 10, fails: true},
		"a deadline":           {err: context.DeadlineExceeded, times: 1, calls: 2},
		"NOPERM":               {err: rejection(t, "NOPERM no"), times: 1, calls: 1, fails: true},
		"NOREPLICAS":           {err: rejection(t, "NOREPLICAS no"), times: 1, calls: 1, fails: true},
		"LOADING":              {err: rejection(t, "LOADING no"), times: 1, calls: 1, fails: true},
		"BUSY":                 {err: rejection(t, "BUSY no"), times: 1, calls: 1, fails: true},
		"MASTERDOWN":           {err: rejection(t, "MASTERDOWN no"), times: 1, calls: 1, fails: true},
		"CLUSTERDOWN":          {err: rejection(t, "CLUSTERDOWN no"), times: 1, calls: 1, fails: true},
		"OOM":                  {err: rejection(t, "OOM no"), times: 1, calls: 1, fails: true},
		"ERR":                  {err: rejection(t, "ERR no"), times: 1, calls: 1, fails: true},
		"NOPERM in Valkey":     {err: rejection(t, "ERR ACL failure in script: User a has no permissions to run the 'time' command"), times: 1, calls: 1, fails: true},
		"NOPERM in Redis 7.0":  {err: rejection(t, "ERR The user executing the script can't run this command or subcommand"), times: 1, calls: 1, fails: true},
		"ERR of a command":     {err: rejection(t, "ERR SELECT is not allowed"), times: 1, calls: 1, fails: true},
		"ERR of two words":     {err: rejection(t, "ERR DB index is out of range"), times: 1, calls: 1, fails: true},
		"READONLY once":        {err: rejection(t, "READONLY no"), times: 1, calls: 2},
		"READONLY 99 times":    {err: rejection(t, "READONLY no"), times: 99, calls: 100},
		"READONLY for good":    {err: rejection(t, "READONLY no"), times: 1 << 30, calls: 1000, fails: true},
		"TRYAGAIN fifty times": {err: rejection(t, "TRYAGAIN no"), times: 50, calls: 51},
	} {
		t.Run(name, func(t *testing.T) {
			var left atomic.Int64
			left.Store(int64(row.times))
			d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				if isCall(words) && left.Add(-1) >= 0 {
					return rueidis.NewErrorResult(row.err)
				}
				return send()
			})
			q := d.about("a")
			err := d.Do(context.Background(), q)
			if row.fails {
				assert.ErrorIs(t, err, row.err)
			} else if assert.NoError(t, err) {
				assert.EqualValues(t, 1, q.count)
			}
			code, _, _ := strings.Cut(name, " ")
			_, rejected := rueidis.IsRedisErr(row.err)
			assert.Equal(t, rejected, Code(row.err) == code)
			calls := d.client.sent(isCall)
			assert.Len(t, calls, row.calls)
			for i, words := range calls {
				if strings.Contains(name, "TRYAGAIN") {
					continue // it has a new id, as it had no effect
				}
				want := []string{"id1"}
				if i > 0 && !rejected {
					want = []string{"again", "id1"}
				}
				assert.Equal(t, want, words[4:])
			}
			left.Store(0)
			d.eventually(func() bool { return d.nodes.link(0).breaker.incident.Load() == nil })
			assert.NoError(t, d.Do(context.Background(), d.about("b")))
		})
	}
}

// The attempts of a call that meet a slot that moves are not counted as lost ones, however many they are.
func TestLossesWhileASlotMoves(t *testing.T) {
	moves := rejection(t, "TRYAGAIN no")
	var n atomic.Int32
	d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if !isCall(words) {
			return send()
		}
		switch i := n.Add(1); {
		case i == 1, i == 22, i == 23:
			return rueidis.NewErrorResult(io.EOF)
		case i < 22:
			return rueidis.NewErrorResult(moves)
		}
		return send()
	})
	assert.NoError(t, d.Do(context.Background(), d.about("a")))
	for i, words := range d.client.sent(isCall) {
		assert.Equal(t, i > 0, words[4] == "again")
	}
}

// A call is not sent again when what it did may have expired, nor if no caller waits for it.
func TestNotSentAgain(t *testing.T) {
	lose := func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if isCall(words) {
			return rueidis.NewErrorResult(io.EOF)
		}
		return send()
	}
	d := start(t, lose, func(c *Config[*question]) {
		c.Batches = batches(func() Batch[*question] { return &fakeBatch{id: func() string { return "id" }} })
	})
	assert.ErrorIs(t, d.Do(context.Background(), d.about("a")), io.EOF)
	assert.Len(t, d.client.sent(isCall), 1)

	d, g := gated(t)
	ctx, cancel := context.WithCancel(context.Background())
	o := d.ask(ctx, d.about("a"))
	call := <-g.came
	cancel()
	assert.ErrorIs(t, o.wait(t).err, context.Canceled)
	call.pass <- io.EOF
	d.Close()
	assert.Len(t, d.client.sent(isCall), 1)
}

// A panic in the user's client is an error of the questions that it was to send. It ends nothing else.
func TestPanicInTheClient(t *testing.T) {
	var panics atomic.Bool
	readOnly := rejection(t, "READONLY no")
	for _, mode := range []rueidis.ClientMode{rueidis.ClientModeStandalone, rueidis.ClientModeCluster} {
		d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
			switch {
			case !panics.Load():
				return send()
			case isProbe(words):
				return rueidis.NewErrorResult(readOnly) // so that the connection is ended
			}
			panic("in a hook")
		}, func(c *Config[*question]) { c.Timeout = 100 * time.Millisecond })
		d.client.mode = mode
		panics.Store(true)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() { assert.Error(t, d.Do(context.Background(), d.about(fmt.Sprint(i)))) })
		}
		all.Wait()
		d.eventually(func() bool { return len(d.client.sent(isQuit)) > 0 })
		panics.Store(false)
		d.eventually(func() bool { return d.Do(context.Background(), d.about("a")) == nil })
		d.Close()
	}
}

// While a slot moves, questions about keys on both of its nodes are asked until they are on one. They hold up no
// others: not those about keys of the slot that are on one node, nor those of other slots.
func TestQuestionsWaitForASlotThatMoves(t *testing.T) {
	moves := rejection(t, "TRYAGAIN no")
	var moved atomic.Bool
	d := start(t, func(_ context.Context, words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if isCall(words) && !moved.Load() && slices.Contains(names(words), "both") {
			return rueidis.NewErrorResult(moves)
		}
		return send()
	})
	d.client.mode = rueidis.ClientModeCluster
	l := d.nodes.link(0)
	ask := func(name string) *outcome {
		return d.ask(context.Background(), &question{key: "{a}" + d.prefix + name})
	}
	l.mu.Lock() // so that all are there when the workers wake
	both := []*outcome{ask("both"), ask("both")}
	time.Sleep(time.Millisecond)
	one := []*outcome{ask("one"), ask("two"), ask("one")}
	time.Sleep(10 * time.Millisecond)
	l.mu.Unlock()
	for range 20 {
		one = append(one, ask("later"))
	}
	for _, o := range one {
		assert.NoError(t, o.wait(t).err)
	}
	for _, o := range both {
		select {
		case <-o.done:
			t.Error("answered without Redis: ", o.err)
		default:
		}
	}
	assert.NoError(t, l.probe(context.Background(), "a"))
	moved.Store(true)
	for _, o := range both {
		assert.NoError(t, o.wait(t).err)
	}
	assert.Empty(t, d.changed(), "Redis answers")
}

// Slots are those that Redis says.
func TestSlotOf(t *testing.T) {
	client := redistest.StartCluster(t, 1, 0).Masters[0].Single(t)
	for _, tag := range []string{"ann", "a", "{", "{{", "{a", "127.0.0.1", "ünïcode", strings.Repeat("x", 128), "\x00\xff", "%7D", "a b"} {
		want, err := redistest.Do(t, client, "CLUSTER", "KEYSLOT", "exactlimit:{"+tag+"}:login:60000v3").AsInt64()
		require.NoError(t, err)
		assert.EqualValues(t, want, slotOf(tag), "%q", tag)
	}
}
