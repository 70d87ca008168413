package dispatch

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// link is the queue of the questions that go to one server, or to one range of slots, and the workers that ask them.
type link[Q Question[Q]] struct {
	d       *Dispatcher[Q]
	breaker breaker
	most    int // workers
	room    int // for questions that wait

	mu      sync.Mutex
	wake    sync.Cond
	queue   []Q // from head on
	head    int
	idle    int  // workers that wait for questions
	gathers bool // a worker is about to take what has come
	started int  // workers
	closed  bool
	workers sync.WaitGroup
}

const (
	// maxInFlight is how many calls may be in flight to a server: while it works on one, the next is on its way. More would be
	// smaller and cost the server more work for each question.
	maxInFlight = 2
	// maxInFlightOfRange is how many may be in flight to a range of slots, where each is about one slot.
	maxInFlightOfRange = 16
	// maxSize and maxQuestions are the most in one call: what Redis answers in half a millisecond. Questions in a row that are
	// alike count as one.
	maxSize, maxQuestions = 128, 512
	// maxQueue is the most questions that wait. A service with more waiting callers has other troubles.
	maxQueue = 1 << 16
)

func newLink[Q Question[Q]](d *Dispatcher[Q], most int) *link[Q] {
	l := &link[Q]{d: d, most: most, room: maxQueue}
	l.wake.L = &l.mu
	l.breaker = breaker{
		clock: &d.clock, now: d.Now, closing: d.closing,
		probe: d.probe,
		changed: func(from, to State, since time.Duration, cause error) {
			if to == Open {
				l.drain(cause)
			}
			if d.Changed != nil {
				d.Changed(from, to, since, cause)
			}
		},
	}
	return l
}

// push puts a question into the queue.
func (l *link[Q]) push(q Q) error {
	if err := l.breaker.open(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case len(l.queue)-l.head >= l.room:
		return ErrQueueFull
	}
	if l.head > 0 && len(l.queue) == cap(l.queue) { // rather than to grow
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	l.queue = append(l.queue, q)
	l.wakeWorker()
	return nil
}

// wakeWorker sees to it that a worker looks at the queue. The link is locked.
func (l *link[Q]) wakeWorker() {
	switch {
	case l.gathers:
	case l.idle > 0:
		l.wake.Signal()
	case l.started < l.most:
		l.started++
		l.workers.Go(l.work)
	}
}

// again puts questions that were sent at the front of the queue, in their order.
func (l *link[Q]) again(questions []Q) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var front []Q
	for _, q := range questions {
		switch t := q.ticket(); {
		case l.closed:
			t.answer(ErrClosed)
		case t.change(sent, waiting):
			front = append(front, q)
		}
	}
	if len(front) > 0 {
		l.queue, l.head = append(front, l.queue[l.head:]...), 0
		l.wakeWorker()
	}
}

// take moves questions from the queue to the end of a list, once there are any: as many as go together. It returns false
// when the link is closed.
func (l *link[Q]) take(questions []Q) (_ []Q, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for gathered := false; !gathered && !l.closed; gathered = l.head < len(l.queue) {
		for len(l.queue) == l.head && !l.closed {
			l.idle++
			l.wake.Wait()
			l.idle--
		}
		// Callers that can run now, such as those that the last call answered, may add their questions.
		l.gathers = true
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
		l.gathers = false
	}
	rest, size := l.queue[l.head:], 0
	kept := 0 // of those passed over, since they go elsewhere
	for i, q := range rest {
		switch {
		case len(questions) == 0:
			size = q.Size()
		case !goTogether(questions[0], q):
			rest[kept] = q
			kept++
			continue
		case !q.Alike(questions[len(questions)-1]):
			size += q.Size()
		}
		if len(questions) == maxQuestions || size > maxSize && len(questions) > 0 {
			kept += copy(rest[kept:], rest[i:])
			break
		}
		questions = append(questions, q)
	}
	clear(rest[kept:])
	if l.queue = l.queue[:l.head+kept]; kept == 0 {
		l.queue, l.head = l.queue[:0], 0
	} else {
		l.wakeWorker() // several questions may have come before this worker woke, and woken nobody else
	}
	return questions, !l.closed
}

// goTogether reports whether two questions may be asked in one call.
func goTogether[Q Question[Q]](a, b Q) bool {
	s, t := a.ticket(), b.ticket()
	return s.slot == t.slot && s.alone == t.alone && (!s.alone || b.Alike(a))
}

// drain answers all questions that wait with an error.
func (l *link[Q]) drain(err error) {
	l.mu.Lock()
	questions := l.queue[l.head:]
	l.queue, l.head = nil, 0
	l.mu.Unlock()
	for _, q := range questions {
		if t := q.ticket(); t.send() {
			t.answer(err)
		}
	}
}

func (l *link[Q]) close() {
	l.mu.Lock()
	l.closed = true
	l.wake.Broadcast()
	l.mu.Unlock()
	l.drain(ErrClosed)
}

// probe asks Redis in a way that tests all that calls need: the connection, the rights, the script, and that it may write.
func (d *Dispatcher[Q]) probe(ctx context.Context, hashTag string) error {
	client, err := d.Client()
	if err != nil {
		return err
	}
	keys, args := d.Probe(hashTag)
	_, err = d.call(ctx, client, keys, args).ToArray()
	switch {
	case tryAgain(err):
		return nil // the slot is moving, and calls about other keys of the link are answered
	case readOnly(err):
		d.quit(ctx, client, keys[0])
	}
	return err
}

// quit ends a connection to a server that was the master when the connection was made. The next one finds the master, if there
// is one behind the address. Of several connections the client takes one at random if the command has a key, and always the
// same if it has none. Redis ignores the key.
func (d *Dispatcher[Q]) quit(ctx context.Context, client rueidis.Client, key string) {
	defer caught(func(error) {})
	client.Do(ctx, client.B().Arbitrary("QUIT").Keys(key).Build())
}
