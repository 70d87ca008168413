package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// script adds a member to the set of each question, and answers how many it has. A call sent again adds nothing twice,
// and one that is known adds nothing.
const script = `
local at = 1
if ARGV[1] == 'again' or ARGV[1] == 'known' then at = 2 end
local reply = {}
for i, key in ipairs(KEYS) do
  if ARGV[at] ~= 'probe' and ARGV[1] ~= 'known' then
    redis.call('SADD', key, ARGV[at] .. '.' .. i)
  end
  reply[i] = redis.call('SCARD', key)
end
return reply`

// question asks to be added to a set.
type question struct {
	Future
	key   string
	size  int
	again int // how often the batch has it asked again
	count int64

	unwanted atomic.Bool
}

func (q *question) HashTag() string {
	_, tail, _ := strings.Cut(q.key, "{")
	tag, _, found := strings.Cut(tail, "}")
	if !found {
		return q.key
	}
	return tag
}

func (q *question) Size() int { return max(1, q.size) }

func (q *question) Unwanted() bool { return q.unwanted.Load() }

func (q *question) Alike(other *question) bool { return q.key == other.key }

// names returns what the questions of a call are about.
func names(words []string) (names []string) {
	n, _ := strconv.Atoi(words[2])
	for _, key := range words[3 : 3+n] {
		names = append(names, key[strings.LastIndexByte(key, ':')+1:])
	}
	return names
}

// fakeBatch is a batch of such questions.
type fakeBatch struct {
	id        func() string
	retryFor  time.Duration
	questions []*question
	args      []string
}

func (b *fakeBatch) Encode(questions []*question) (keys, args []string) {
	b.questions = questions
	for _, q := range questions {
		keys = append(keys, q.key)
	}
	b.args = []string{b.id()}
	return keys, b.args
}

func (b *fakeBatch) Again() []string {
	if b.args[0] != "again" {
		b.args = append([]string{"again"}, b.args...)
	}
	return b.args
}

func (b *fakeBatch) Known() []string { return append([]string{"known"}, b.Again()[1:]...) }

func (b *fakeBatch) RetryFor() time.Duration { return b.retryFor }

func (b *fakeBatch) Decode(reply []rueidis.RedisMessage) (again []*question, err error) {
	if len(reply) != len(b.questions) {
		return nil, errors.New("a reply to other questions")
	}
	for i, q := range b.questions {
		if q.again--; q.again >= 0 {
			again = append(again, q)
			continue
		}
		if q.count, err = reply[i].AsInt64(); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// batches returns a function for Config.Batches.
func batches(newBatch func() Batch[*question]) func() func() Batch[*question] {
	return func() func() Batch[*question] { return newBatch }
}

// change is a change of a breaker.
type change struct{ from, to State }

// dispatched is a Dispatcher of the tests, and what it has told.
type dispatched struct {
	*Dispatcher[*question]
	*testing.T
	client   *redistest.Client
	prefix   string
	late     chan string // the keys of questions
	timeouts atomic.Int32

	mu      sync.Mutex
	changes []change
	calls   []int // how many questions each had
}

// start returns a dispatcher on the shared server, with patience unless the test says otherwise.
func start(t *testing.T, hook redistest.Hook, set ...func(*Config[*question])) *dispatched {
	t.Helper()
	d := &dispatched{T: t, prefix: redistest.Prefix() + ":", late: make(chan string, 1000)}
	d.client = redistest.Shared(t).Hooked(t, hook)
	redistest.Do(t, d.client.Client, "SCRIPT", "LOAD", script)
	var ids atomic.Int64
	config := Config[*question]{
		Client:  func() (rueidis.Client, error) { return d.client, nil },
		Timeout: 10 * time.Second,
		Script:  script,
		Batches: batches(func() Batch[*question] {
			return &fakeBatch{id: func() string { return fmt.Sprint("id", ids.Add(1)) }, retryFor: time.Hour}
		}),
		Probe: func(hashTag string) (keys, args []string) { return []string{"{" + hashTag + "}"}, []string{"probe"} },
		Late:  func(q *question) { d.late <- q.key },
		Called: func(questions int, _ time.Duration, _ error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.calls = append(d.calls, questions)
		},
		TimedOut: func() { d.timeouts.Add(1) },
		Changed: func(from, to State, _ time.Duration, _ error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.changes = append(d.changes, change{from, to})
		},
	}
	for _, f := range set {
		f(&config)
	}
	d.Dispatcher = New(config)
	t.Cleanup(d.Close)
	return d
}

// outcome is what a Do came to. It is read after done.
type outcome struct {
	*question
	err  error
	done chan struct{}
}

// about returns a question about a key of this test.
func (d *dispatched) about(name string) *question { return &question{key: d.prefix + name} }

// ask asks in a goroutine of its own.
func (d *dispatched) ask(ctx context.Context, q *question) *outcome {
	o := &outcome{question: q, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.err = d.Do(ctx, q)
	}()
	return o
}

// queue has a question for each key wait, one behind the other.
func (d *dispatched) queue(ctx context.Context, names ...string) (outcomes []*outcome) {
	d.Helper()
	before := d.waiting()
	for i, name := range names {
		outcomes = append(outcomes, d.ask(ctx, d.about(name)))
		d.eventually(func() bool { return d.waiting() == before+i+1 })
	}
	return outcomes
}

// waiting returns how many questions are in the queue.
func (d *dispatched) waiting() int {
	l := d.nodes.link(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) - l.head
}

func (d *dispatched) eventually(holds func() bool) {
	d.Helper()
	require.Eventually(d, holds, 10*time.Second, 50*time.Microsecond)
}

func (d *dispatched) changed() []change {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.changes)
}

func (o *outcome) wait(t *testing.T) *outcome {
	t.Helper()
	redistest.Receive(t, o.done)
	return o
}

// gated returns a dispatcher behind a gate.
func gated(t *testing.T, set ...func(*Config[*question])) (*dispatched, *redistest.Gate) {
	g := redistest.NewGate()
	return start(t, g.Hook, set...), g
}

// busy has as many calls at the gate as may be in flight.
func (d *dispatched) busy(g *redistest.Gate) (outcomes []*outcome, calls []*redistest.Held) {
	for i := range maxWorkers {
		outcomes = append(outcomes, d.ask(context.Background(), d.about(fmt.Sprint("busy", i))))
		calls = append(calls, <-g.Came)
	}
	return outcomes, calls
}

// rejection returns an error of the server.
func rejection(t *testing.T, text string) error {
	client := redistest.Shared(t).Client(t)
	eval := client.B().Eval().Script("return redis.error_reply(ARGV[1])").Numkeys(0).Arg(text).Build()
	err := client.Do(context.Background(), eval).Error()
	require.EqualError(t, err, strings.TrimPrefix(text, "ERR ")) // which rueidis leaves out
	return err
}
