package dispatch

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
)

// Question is what a caller asks. Q is a pointer to a type that embeds Future.
type Question[Q any] interface {
	// HashTag returns the hash tag of all keys of the question, which decides the slot in Redis Cluster.
	HashTag() string
	// Size returns how much work the question is for the script. A question about one key usually has size 1.
	Size() int
	// Unwanted reports whether the caller has got an error, and what the question may still be granted must be given
	// back.
	Unwanted() bool
	// Alike reports whether a batch with this question and other is as little work as with one of them.
	Alike(other Q) bool

	future() *Future
}

// Batch encodes questions as the arguments of one call, and decodes the reply into their answers. It is reused: each
// Encode begins a new call.
type Batch[Q Question[Q]] interface {
	// Encode returns the keys and the arguments of a call that asks questions.
	Encode(questions []Q) (keys, args []string)
	// Again returns the arguments for sending the call again after it may have been executed.
	Again() []string
	// Known returns the arguments for asking what the call has granted if it was executed, without granting more.
	Known() []string
	// RetryFor returns for how long after Encode the call may be sent again.
	RetryFor() time.Duration
	// Decode stores the answers in the questions, and returns the questions that the reply does not answer. It returns
	// an error if the reply is not one of the script.
	Decode(reply []rueidis.RedisMessage) (unanswered []Q, err error)
}

// Config configures a Dispatcher. All fields but the last three are required.
type Config[Q Question[Q]] struct {
	// Client returns the client to use, or an error while there is none.
	Client  func() (rueidis.Client, error)
	Timeout time.Duration
	Script  string
	// Batches returns a function that makes batches for one worker. They may share memory that only Encode uses.
	Batches func() (newBatch func() Batch[Q])
	// Probe returns the keys and arguments of a call that changes nothing, and tests whether questions with a hash tag
	// can be answered.
	Probe func(hashTag string) (keys, args []string)
	// Late is called with each question whose answer comes after its caller has stopped waiting.
	Late func(q Q)

	// The remaining functions only observe, and may be nil.

	// Called is called after each call.
	Called func(questions int, took time.Duration, err error)
	// TimedOut is called for each question that got no answer before the timeout or its context's deadline.
	TimedOut func()
	// Changed is called when a circuit breaker has changed its state. The incident began at since, by Now. The changes
	// of an incident come in order, but it may be called concurrently.
	Changed func(from, to State, since time.Duration, cause error)
}

// Dispatcher sends questions to Redis. Make one with New. It is safe for concurrent use.
type Dispatcher[Q Question[Q]] struct {
	Config[Q]
	sha1    string // of the script
	start   time.Time
	clock   clock
	nodes   nodes[Q]
	closing context.Context    // cancelled by Close
	cancel  context.CancelFunc // cancels closing
}

var (
	// ErrClosed is returned if the Dispatcher is closed.
	ErrClosed = errors.New("closed")
	// ErrQueueFull is returned if too many other questions are in the queue.
	ErrQueueFull = errors.New("too many requests wait for Redis")

	errNoAnswer = errors.New("no answer")
)

// New returns a Dispatcher. It sends nothing before the first question.
func New[Q Question[Q]](config Config[Q]) *Dispatcher[Q] {
	sum := sha1.Sum([]byte(config.Script))
	d := &Dispatcher[Q]{
		Config: config,
		sha1:   hex.EncodeToString(sum[:]),
		start:  time.Now(),
	}
	d.closing, d.cancel = context.WithCancel(context.Background())
	d.clock = clock{timeout: config.Timeout, now: d.Now, closing: d.closing}
	d.nodes.table.Store(&table[Q]{links: []*link[Q]{newLink(d)}})
	return d
}

// Now returns the time since the Dispatcher was made, on Go's monotonic clock.
func (d *Dispatcher[Q]) Now() time.Duration { return time.Since(d.start) }

// Do asks a question and waits for the answer. If it returns nil, the answer is in the question. If it returns an
// error, the question may have been sent, and an answer may still be stored in it, so the question must not be used
// again.
func (d *Dispatcher[Q]) Do(ctx context.Context, q Q) error {
	f := q.future()
	l, err := d.push(q)
	if err != nil {
		return err
	}
	d.clock.expireAfterTimeout(f)
	select {
	case <-f.done:
	case <-ctx.Done():
		wasSent := f.is(sent)
		if !f.leave() {
			<-f.done
			break
		}
		err = ctx.Err()
		if wasSent {
			l.watchForReply(q.HashTag())
		}
	}
	if f.is(expired) {
		err = &timeoutError{d.Timeout}
		l.breaker.suspect(q.HashTag(), err, false)
	}
	if err == nil {
		return f.err
	}
	if !errors.Is(err, context.Canceled) && d.TimedOut != nil {
		d.TimedOut()
	}
	return err
}

// Server returns the number of the server that answers questions with a hash tag. In Redis Cluster, each master has its
// own number. The number may change, and may be out of date for some seconds.
func (d *Dispatcher[Q]) Server(hashTag string) int {
	client, err := d.Client()
	if err != nil {
		return 0
	}
	return d.nodes.table.Load().index(slotIn(client, hashTag))
}

// push puts a question into the queue of its link, and returns the link.
func (d *Dispatcher[Q]) push(q Q) (*link[Q], error) {
	client, err := d.Client()
	if err != nil {
		return nil, err
	}
	slot := slotIn(client, q.HashTag())
	l := d.nodes.link(slot)
	q.future().begin(slot)
	return l, l.push(q)
}

// Close answers all questions in the queues with ErrClosed, and waits for calls in flight and for background
// goroutines.
func (d *Dispatcher[Q]) Close() {
	d.cancel()
	links := d.nodes.close()
	for _, l := range links {
		l.close()
	}
	for _, l := range links {
		l.breaker.close()
		l.background.Wait()
	}
	d.clock.close()
}

// timeoutError is the error of a question that got no answer within the timeout.
type timeoutError struct{ timeout time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("no answer within %v", e.timeout) }
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }
