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

// Question is what a caller asks: a pointer to a type that embeds Ticket.
type Question[Q any] interface {
	// HashTag returns what decides where the question goes: all of its keys in Redis have it in braces.
	HashTag() string
	// Size returns how much work the question is, in units of one about one key.
	Size() int
	// Alike reports whether a batch asks this question together with another, so that both are the work of one.
	Alike(other Q) bool

	ticket() *Ticket
}

// Batch turns questions into the arguments of one call and its reply into their answers. It is reused for one batch after
// the other.
type Batch[Q Question[Q]] interface {
	// Encode returns the keys and the arguments of a call that asks questions.
	Encode(questions []Q) (keys, args []string)
	// Again returns the arguments for the same call if it may have been executed before.
	Again() []string
	// RetryFor returns how long after Encode the call may be sent again.
	RetryFor() time.Duration
	// Decode stores the answers in the questions, and returns those that have to be asked again. An error means that the
	// reply is none of the script.
	Decode(reply []rueidis.RedisMessage) (again []Q, err error)
}

// Config is what a Dispatcher is made of.
type Config[Q Question[Q]] struct {
	// Client returns the client to use, or an error while there is none.
	Client   func() (rueidis.Client, error)
	Timeout  time.Duration
	Script   string
	NewBatch func() Batch[Q]
	// Probe returns the keys and arguments of a call that tests what questions with a hash tag need, and changes nothing.
	Probe func(hashTag string) (keys, args []string)
	// Late receives a question whose answer came when its caller had left.
	Late func(q Q)

	// The remaining functions observe. They may be nil.

	Called   func(questions int, took time.Duration, err error) // after each call
	TimedOut func()                                             // after each question that had no answer in time
	// Changed is called with each change of a breaker whose trouble began at since.
	Changed func(from, to State, since time.Duration, cause error)
}

// Dispatcher sends questions. It is safe for concurrent use.
type Dispatcher[Q Question[Q]] struct {
	Config[Q]
	sha1    string
	start   time.Time
	clock   clock
	single  *link[Q]         // to a server, or to the master that Sentinel names
	ranges  [ranges]*link[Q] // to the ranges of slots of Redis Cluster
	closing context.Context
	close   context.CancelFunc
}

// ranges is how many ranges of slots there are, of 512 slots each.
const ranges = 32

var (
	// ErrClosed is the answer to questions of a Dispatcher that is closed.
	ErrClosed = errors.New("closed")
	// ErrQueueFull is the answer to a question that comes when too many wait.
	ErrQueueFull = errors.New("too many requests wait for Redis")

	errNoAnswer = errors.New("no answer")
)

// New returns a Dispatcher. It sends nothing before it is asked something.
func New[Q Question[Q]](config Config[Q]) *Dispatcher[Q] {
	sum := sha1.Sum([]byte(config.Script))
	d := &Dispatcher[Q]{
		Config: config,
		sha1:   hex.EncodeToString(sum[:]),
		start:  time.Now(),
	}
	d.closing, d.close = context.WithCancel(context.Background())
	d.clock = clock{timeout: config.Timeout, now: d.Now, closing: d.closing}
	d.single = newLink(d, maxInFlight)
	for i := range d.ranges {
		d.ranges[i] = newLink(d, maxInFlightOfRange)
	}
	return d
}

// Now returns the time since some moment, on Go's monotonic clock.
func (d *Dispatcher[Q]) Now() time.Duration { return time.Since(d.start) }

// Do asks a question and waits for the answer. If it returns nil the answer is in the question. Otherwise it is unknown whether
// the question was asked, and it must not be used again.
func (d *Dispatcher[Q]) Do(ctx context.Context, q Q) error {
	t := q.ticket()
	l, err := d.push(q)
	if err != nil {
		return err
	}
	d.clock.add(t)
	var cause error // that others may be told of
	select {
	case <-t.done:
	case <-ctx.Done():
		if t.leave() {
			err, cause = ctx.Err(), errNoAnswer
		} else {
			<-t.done
		}
	}
	if t.in(expired) {
		err = &timeoutError{d.Timeout}
		cause = err
	}
	if err == nil {
		return t.err
	}
	if !errors.Is(err, context.Canceled) && d.TimedOut != nil {
		d.TimedOut()
	}
	l.breaker.suspect(q.HashTag(), cause, false)
	return err
}

// push puts a question into the queue of its link.
func (d *Dispatcher[Q]) push(q Q) (*link[Q], error) {
	client, err := d.Client()
	if err != nil {
		return nil, err
	}
	l, slot := d.single, 0
	if client.Mode() == rueidis.ClientModeCluster {
		slot = slotOf(q.HashTag())
		l = d.ranges[slot*ranges/slots]
	}
	q.ticket().begin(slot)
	return l, l.push(q)
}

// Close answers all questions that wait with ErrClosed, and returns when no call is in flight.
func (d *Dispatcher[Q]) Close() {
	d.close()
	for _, l := range append(d.ranges[:], d.single) {
		l.close()
	}
	for _, l := range append(d.ranges[:], d.single) {
		l.breaker.close()
		l.workers.Wait()
	}
}

// timeoutError is the error of a question that had no answer in time.
type timeoutError struct{ timeout time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("no answer within %v", e.timeout) }
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }
