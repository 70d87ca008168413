package dispatch

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// link is the queue of the questions to one server, and the workers that ask them.
type link[Q Question[Q]] struct {
	d          *Dispatcher[Q]
	breaker    breaker
	maxWorkers int           // the most workers
	maxQueue   int           // the most questions in the queue
	callsEnded atomic.Uint64 // how many calls have ended

	mu         sync.Mutex
	wake       sync.Cond // signals idle workers
	queue      []Q       // the questions begin at index head
	head       int
	idle       int  // how many workers wait for questions
	gathering  bool // a worker is about to take the questions in the queue
	workers    int  // how many workers there are
	closed     bool
	background sync.WaitGroup // the workers, and the goroutines that resend calls
}

const (
	// maxWorkers is the most workers of a link. While Redis answers one worker, the questions of the other are on their
	// way. With more workers, each would send fewer questions at once, which is more work for Redis.
	maxWorkers = 2
	// maxSize and maxQuestions limit the questions that a worker sends at once to what Redis answers in half a
	// millisecond, or in a few milliseconds if they are about many slots. Consecutive questions that are alike have the
	// size of one.
	maxSize, maxQuestions = 128, 512
	// maxQueue is the most questions in a queue. It bounds the memory that they take.
	maxQueue = 1 << 16
)

func newLink[Q Question[Q]](d *Dispatcher[Q]) *link[Q] {
	l := &link[Q]{d: d, maxWorkers: maxWorkers, maxQueue: maxQueue}
	l.wake.L = &l.mu
	l.breaker = breaker{
		clock: &d.clock, now: d.Now, closing: d.closing,
		probe: l.probe, opening: l.drain,
		changed: func(from, to State, since time.Duration, cause error) {
			if d.Changed != nil {
				d.Changed(from, to, since, cause)
			}
		},
	}
	return l
}

// push puts a question into the queue, unless the breaker is open.
func (l *link[Q]) push(q Q) error {
	if err := l.breaker.openError(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case len(l.queue)-l.head >= l.maxQueue:
		return ErrQueueFull
	}
	if l.head > 0 && len(l.queue) == cap(l.queue) { // move the questions to the front instead of growing the slice
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	l.queue = append(l.queue, q)
	l.wakeWorker()
	return nil
}

// wakeWorker ensures that a worker will take questions from the queue. There is nothing to do if all workers have calls
// in flight, because they look into the queue afterwards. The link must be locked.
func (l *link[Q]) wakeWorker() {
	switch {
	case l.gathering:
	case l.idle > 0:
		l.wake.Signal()
	case l.workers < l.maxWorkers:
		l.workers++
		l.background.Go(l.work)
	}
}

// requeue puts questions of a call back to the front of the queue, in their order. It drops those whose callers no
// longer wait.
func (l *link[Q]) requeue(questions []Q) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var front []Q
	for _, q := range questions {
		switch f := q.future(); {
		case l.closed:
			f.answer(ErrClosed)
		case f.change(sent, waiting):
			front = append(front, q)
		}
	}
	if len(front) > 0 {
		l.queue, l.head = append(front, l.queue[l.head:]...), 0
		l.wakeWorker()
	}
}

// take waits until there are questions in the queue, takes as many of them as may be sent at once, and appends them to
// questions. It reports false if the link is closed.
func (l *link[Q]) take(questions []Q) (_ []Q, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for gathered := false; !gathered && !l.closed; gathered = l.head < len(l.queue) {
		for len(l.queue) == l.head && !l.closed {
			l.idle++
			l.wake.Wait()
			l.idle--
		}
		// Let callers that are ready to run add their questions, such as those whose last question was just answered.
		// If another worker takes the questions meanwhile, wait again.
		l.gathering = true
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
		l.gathering = false
	}
	size := 0
	for _, q := range l.queue[l.head:] {
		more := 0
		if len(questions) == 0 || !q.Alike(questions[len(questions)-1]) {
			more = q.Size()
		}
		if len(questions) == maxQuestions || len(questions) > 0 && size+more > maxSize {
			break
		}
		questions = append(questions, q)
		size += more
	}
	clear(l.queue[l.head : l.head+len(questions)])
	if l.head += len(questions); l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
	} else {
		l.wakeWorker() // for the rest of the questions, for which push has woken no worker while l.gathering was set
	}
	return questions, !l.closed
}

// watchForReply makes the breaker half-open if no call ends within the timeout from now. It is called when a caller
// leaves because its context has ended. This does not show that Redis is silent. But if all callers leave before the
// timeout, nothing else would show it.
func (l *link[Q]) watchForReply(hashTag string) {
	hashTag = strings.Clone(hashTag)
	if ended := l.callsEnded.Load(); l.breaker.incident.Load() == nil {
		cancelled := func() bool { return l.callsEnded.Load() != ended || l.d.closing.Err() != nil }
		l.d.clock.afterFunc(l.d.Timeout, cancelled, func() { l.breaker.suspect(hashTag, errNoAnswer, false) })
	}
}

// drain empties the queue, and answers its questions with an error.
func (l *link[Q]) drain(err error) {
	l.mu.Lock()
	questions := l.queue[l.head:]
	l.queue, l.head = nil, 0
	l.mu.Unlock()
	for _, q := range questions {
		if f := q.future(); f.send() {
			f.answer(err)
		}
	}
}

// close makes the workers return, and answers the questions in the queue.
func (l *link[Q]) close() {
	l.mu.Lock()
	l.closed = true
	l.wake.Broadcast()
	l.mu.Unlock()
	l.drain(ErrClosed)
}
