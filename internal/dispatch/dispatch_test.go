package dispatch

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
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
	calls[0].Pass()
	batch := <-g.Came
	assert.Equal(t, []string{"a", "b", "c", "a"}, names(batch.Words))
	batch.Pass()
	for i, o := range others {
		require.NoError(t, o.wait(t).err)
		assert.EqualValues(t, []int{1, 1, 1, 2}[i], o.count, "each has its own answer")
	}
	for i, o := range first {
		if i > 0 {
			calls[i].Pass()
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
		t.Run(name, func(t *testing.T) {
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
			assert.Equal(t, row.sizes, sizes)
		})
	}
}

// Questions that come at once while one worker is idle wake others too, once it has taken as many as go together.
func TestNoWakeupIsLost(t *testing.T) {
	d, g := gated(t)
	o := d.ask(context.Background(), d.about("a"))
	(<-g.Came).Pass()
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
		call := <-g.Came // the second comes while the first is in flight
		assert.Len(t, names(call.Words), maxSize)
		defer func() { call.Pass() }()
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
	calls[0].Pass()
	call := <-g.Came
	assert.Equal(t, []string{"again0", "again1", "again2"}, names(call.Words))
	behind := d.queue(context.Background(), "b", "c")
	call.Pass()
	require.NoError(t, again[0].wait(t).err)
	call = <-g.Came
	assert.Equal(t, []string{"again1", "again2", "b", "c"}, names(call.Words))
	call.Pass()
	require.NoError(t, again[1].wait(t).err)
	call = <-g.Came
	assert.Equal(t, []string{"again2"}, names(call.Words))
	call.Pass()
	for _, o := range append(behind, again[2]) {
		require.NoError(t, o.wait(t).err)
	}
	for _, call := range calls[1:] {
		call.Pass()
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
			calls[0].Pass()
			sent := d.ask(ctx, d.about("sent"))
			call := <-g.Came
			waits := d.ask(ctx, d.about("waits"))
			behind := d.ask(context.Background(), d.about("behind"))
			end()
			assert.ErrorIs(t, sent.wait(t).err, row.err)
			assert.ErrorIs(t, waits.wait(t).err, row.err)
			assert.Empty(t, d.late, "Redis has not answered")
			call.Pass()
			assert.Equal(t, d.prefix+"sent", <-d.late)
			call = <-g.Came
			assert.Equal(t, []string{"behind"}, names(call.Words))
			call.Pass()
			assert.NoError(t, behind.wait(t).err)
			for i, o := range first {
				if i > 0 {
					calls[i].Pass()
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
	calls[0].Pass()
	call := <-g.Came
	last := d.queue(context.Background(), "d")
	for _, call := range append(calls[1:], call) {
		call.Pass()
	}
	(<-g.Came).Pass()
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
		call.Pass()
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
		do := func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
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
					ctx, cancel := context.WithTimeout(context.Background(),
						time.Duration(random.IntN(4000))*time.Microsecond)
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
	d := start(t, redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if n.Add(1)%10 == 0 {
			return rueidis.NewErrorResult(io.EOF)
		}
		return send()
	}))
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
		assert.EqualValues(t, 8*(300+60), n,
			"each is counted once, or twice if the script is said not to have got to it")
	}
}

// A panic in the user's client is an error of the questions that it was to send. It ends nothing else.
func TestPanicInTheClient(t *testing.T) {
	var panics atomic.Bool
	readOnly := rejection(t, "READONLY no")
	for name, cluster := range map[string]bool{"client of a server": false, "client of a cluster": true} {
		t.Run(name, func(t *testing.T) {
			d := start(t, func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				switch {
				case !panics.Load():
					return send()
				case redistest.IsProbe(words):
					return rueidis.NewErrorResult(readOnly) // so that the connection is ended
				}
				panic("in a hook")
			}, func(c *Config[*question]) { c.Timeout = 100 * time.Millisecond })
			d.client.Cluster = cluster
			panics.Store(true)
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() { assert.Error(t, d.Do(context.Background(), d.about(fmt.Sprint(i)))) })
			}
			all.Wait()
			quit := func(words []string) bool { return words[0] == "QUIT" }
			d.eventually(func() bool { return len(d.client.Sent(quit)) > 0 })
			panics.Store(false)
			d.eventually(func() bool { return d.Do(context.Background(), d.about("a")) == nil })
			d.Close()
		})
	}
}
