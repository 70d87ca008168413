package core

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Wait blocks until the request is admitted or ctx ends. If ctx ends, the error wraps ErrUnavailable and the context's
// error. Pass a context that ends, because a queue can be long.
//
// Callers that wait for the same key under the same limits form a queue. They are admitted in the order in which they
// came, and only the first of them asks. Views made by DryRun and OnFailure have queues of their own. Callers in
// different queues and instances compete for each unit.
//
// Wait asks again after RetryAfter, and at once after a Settle, Refund or Reset of the key by this Limiter. On Redis it
// also asks again after the time that WithDenialCache sets, one second by default, because another instance may have
// given units back. It can take that long to notice them, even in a Provisional view. While a limit that is InFlight
// has no room, Wait asks again at once after a Release by this Limiter, and on Redis ten times a second.
//
// A limit with a Ban is of little use here: if there is no room when Wait asks, the ban begins, and Wait blocks until
// it ends.
//
// Wait does not return early if there will be no room before the deadline of ctx, because a Settle, Refund or Reset may
// still make room. To avoid waiting in vain, call Allow first, and compare RetryAfter with the deadline.
func (l *Limiter) Wait(ctx context.Context, key string, limits ...Limit) (Decision, error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	id := waitQueueID{limits: fmt.Sprintf("%#v", limits), policy: l.policy, dryRun: l.dryRun}
	t, err := l.waitQueues.join(ctx, canonicalKey(key), id)
	if err != nil {
		return Decision{}, unavailable(err)
	}
	defer t.leave()
	for {
		woken := t.woken() // before asking, to miss no Refund after the answer
		d, err := l.Allow(ctx, key, limits...)
		if err != nil || d.Allowed {
			return d, err
		}
		timer := time.NewTimer(l.delay(d))
		select {
		case <-timer.C:
		case <-woken: // there may be room now
		case <-l.closing: // the next Allow returns an error
		case <-ctx.Done():
			timer.Stop()
			return Decision{}, unavailable(ctx.Err())
		}
		timer.Stop()
	}
}

// delay returns how long to wait after a denial before asking again, if this Limiter gives no units back meanwhile.
func (l *Limiter) delay(d Decision) time.Duration {
	switch {
	case l.redis == nil:
		return d.RetryAfter // no other Limiter can give units back
	case d.Source == SourceInProcess:
		return min(d.RetryAfter, time.Second) // by then Redis may answer again, and its logs may have room
	}
	delay := min(d.RetryAfter, l.waitQueues.denialTTL-d.age) // d.age is how long the denial was cached
	if d.Limit.InFlight {
		delay = min(delay, 100*time.Millisecond) // other instances may release requests at any time
	}
	return delay
}

// waitQueues holds the callers of Wait: for each key, one queue for each waitQueueID.
type waitQueues struct {
	denialTTL time.Duration // after which callers ask Redis again
	mu        sync.Mutex
	keys      map[string]map[waitQueueID]*waitQueue // by canonical key
}

// waitQueueID identifies a queue among those of a key.
type waitQueueID struct {
	limits string
	policy FailurePolicy
	dryRun bool
}

// waitQueue is a queue. It exists while a caller has its ticket. The zero waitQueue has no waiters.
type waitQueue struct {
	waiters []chan struct{} // one for each waiting caller, closed when it gets the ticket
	woken   chan struct{}   // closed when units are given back; nil if unused
}

// ticket is the right of one caller in a queue to ask for a decision.
type ticket struct {
	queues *waitQueues
	key    string
	id     waitQueueID
	queue  *waitQueue
}

func newWaitQueues(c config) *waitQueues {
	denialTTL := c.denialTTL
	if c.denials == 0 {
		denialTTL = time.Second // the option sets none if it turns the cache off
	}
	return &waitQueues{denialTTL: denialTTL, keys: map[string]map[waitQueueID]*waitQueue{}}
}

// join waits in a queue until the caller gets the ticket or ctx ends.
func (q *waitQueues) join(ctx context.Context, key string, id waitQueueID) (ticket, error) {
	q.mu.Lock()
	keyQueues := q.keys[key]
	if keyQueues == nil {
		keyQueues = map[waitQueueID]*waitQueue{}
		q.keys[key] = keyQueues
	}
	queue := keyQueues[id]
	if queue == nil {
		queue = &waitQueue{}
		keyQueues[id] = queue
		q.mu.Unlock()
		return ticket{q, key, id, queue}, nil
	}
	ready := make(chan struct{})
	queue.waiters = append(queue.waiters, ready)
	q.mu.Unlock()

	t := ticket{q, key, id, queue}
	select {
	case <-ready:
		return t, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(queue.waiters, ready)
	if i >= 0 {
		queue.waiters = slices.Delete(queue.waiters, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // the caller got the ticket just now: pass it on
		t.leave()
	}
	return ticket{}, ctx.Err()
}

// woken returns a channel that is closed when units of the key are given back after this call of woken.
func (t ticket) woken() <-chan struct{} {
	t.queues.mu.Lock()
	defer t.queues.mu.Unlock()
	if t.queue.woken == nil {
		t.queue.woken = make(chan struct{})
	}
	return t.queue.woken
}

// wake makes the callers that have the tickets of a key's queues ask again.
func (q *waitQueues) wake(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, queue := range q.keys[key] {
		if queue.woken != nil {
			close(queue.woken)
			queue.woken = nil
		}
	}
}

// leave passes the ticket to the next waiter.
func (t ticket) leave() {
	t.queues.mu.Lock()
	defer t.queues.mu.Unlock()
	if len(t.queue.waiters) > 0 {
		close(t.queue.waiters[0])
		t.queue.waiters = slices.Delete(t.queue.waiters, 0, 1)
		return
	}
	keyQueues := t.queues.keys[t.key]
	delete(keyQueues, t.id)
	if len(keyQueues) == 0 {
		delete(t.queues.keys, t.key)
	}
}
