package dispatch

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// link is the queue of the questions to one server, or to one range of slots, with the workers that ask them.
type link[Q Question[Q]] struct {
	d       *Dispatcher[Q]
	breaker breaker
	most    int // the number of workers
	room    int // the most questions in the queue

	mu      sync.Mutex
	wake    sync.Cond // signals idle workers
	queue   []Q       // the questions, from index head on
	head    int
	idle    int  // how many workers wait for questions
	gathers bool // a worker is about to take what is in the queue
	started int  // how many workers there are
	closed  bool
	workers sync.WaitGroup
}

const (
	// maxInFlight is the number of workers of the link to a server, and so of its calls in flight: while Redis executes
	// one call, the next is on its way. With more, calls would be smaller, and cost Redis more work for each question.
	maxInFlight = 2
	// maxInFlightOfRange is the number for a range of slots, where each call is about one slot.
	maxInFlightOfRange = 16
	// maxSize and maxQuestions limit the questions of a call to what Redis answers in half a millisecond. Consecutive
	// questions that are alike have the size of one.
	maxSize, maxQuestions = 128, 512
	// maxQueue is the most questions in a queue, to bound its memory.
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

// push puts a question into the queue, unless the breaker is open.
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
	if l.head > 0 && len(l.queue) == cap(l.queue) { // move the questions to the front rather than let the slice grow
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	l.queue = append(l.queue, q)
	l.wakeWorker()
	return nil
}

// wakeWorker makes sure that a worker will look at the queue, unless all of them have calls in flight, after which
// they do so anyway. The link must be locked.
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

// again puts questions that were sent back at the front of the queue, in their order, if their callers still wait.
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

// take waits until there are questions in the queue, and appends as many of them to questions as may be asked at
// once. It reports false if the link is closed.
func (l *link[Q]) take(questions []Q) (_ []Q, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for gathered := false; !gathered && !l.closed; gathered = l.head < len(l.queue) {
		for len(l.queue) == l.head && !l.closed {
			l.idle++
			l.wake.Wait()
			l.idle--
		}
		// Let callers that can run now add their questions, such as those that the last call has answered. Another
		// worker may take the questions meanwhile; then wait again.
		l.gathers = true
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
		l.gathers = false
	}
	// The questions that go elsewhere are passed over. They stay in front of those that are not looked at, so that the
	// work does not grow with the queue.
	rest, looked, passed, size := l.queue[l.head:], 0, 0, 0
	for _, q := range rest {
		more := 0
		switch {
		case len(questions) == 0:
			more = q.Size()
		case !goTogether(questions[0], q):
			rest[passed] = q
			passed++
			looked++
			continue
		case !q.Alike(questions[len(questions)-1]):
			more = q.Size()
		}
		if len(questions) == maxQuestions || len(questions) > 0 && size+more > maxSize {
			break
		}
		questions = append(questions, q)
		size += more
		looked++
	}
	copy(rest[looked-passed:looked], rest[:passed])
	clear(rest[:looked-passed])
	if l.head += looked - passed; l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
	} else {
		l.wakeWorker() // those that are left may have woken no worker, as this one was about to take what has come
	}
	return questions, !l.closed
}

// goTogether reports whether two questions may be asked in one call.
func goTogether[Q Question[Q]](a, b Q) bool {
	s, t := a.ticket(), b.ticket()
	return s.slot == t.slot && s.alone == t.alone && (!s.alone || b.Alike(a))
}

// drain empties the queue, and answers its questions with an error.
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

// close lets the workers end, and answers the questions in the queue.
func (l *link[Q]) close() {
	l.mu.Lock()
	l.closed = true
	l.wake.Broadcast()
	l.mu.Unlock()
	l.drain(ErrClosed)
}

// probe makes a call that tests all that other calls need: the connection, the user's rights, the script, and that the
// server accepts writes.
func (d *Dispatcher[Q]) probe(ctx context.Context, hashTag string) error {
	client, err := d.Client()
	if err != nil {
		return err
	}
	keys, args := d.Probe(hashTag)
	_, err = d.call(ctx, client, keys, args).ToArray()
	switch {
	case tryAgain(err):
		return nil // the slot is moving to another node, but calls about other keys of the link are answered
	case readOnly(err):
		d.quit(ctx, client, keys[0])
	}
	return err
}

// quit ends a connection to a server that is no longer the master, so that the client makes a new one, which may
// reach the master at the same address. The command has a key, which Redis ignores, because a client with several
// connections picks one of them at random for a command with a key, and always the same one for a command without.
func (d *Dispatcher[Q]) quit(ctx context.Context, client rueidis.Client, key string) {
	defer caught(func(error) {})
	client.Do(ctx, client.B().Arbitrary("QUIT").Keys(key).Build())
}
