package dispatch

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// State is the state of a circuit breaker.
type State uint8

const (
	// Closed means that calls go to Redis.
	Closed State = iota
	// HalfOpen means that probes test whether Redis answers. Calls go to Redis too. But if there may be no connection,
	// they wait for the result.
	HalfOpen
	// Open means that only probes go to Redis.
	Open
)

// breaker is a circuit breaker. Its state changes as follows:
//
//	Closed   -> HalfOpen  when a caller got no answer, a connection was lost, or Redis rejected a call
//	HalfOpen -> Closed    when a probe succeeds within the timeout
//	HalfOpen -> Open      when no probe has succeeded for half a timeout
//	Open     -> Closed    when a probe succeeds within the timeout
//
// Both times are measured by clock.
type breaker struct {
	clock   *clock
	now     func() time.Duration
	probe   func(ctx context.Context, hashTag string) error
	opening func(cause error) // called when the breaker opens, while it is locked
	changed func(from, to State, since time.Duration, cause error)
	closing context.Context // cancelled before close is called

	mu         sync.Mutex               // held to change the state
	closed     bool                     // close was called, so no probes may start
	incident   atomic.Pointer[incident] // nil while the state is Closed
	background sync.WaitGroup
}

// incident is one period in which a breaker is half-open or open.
type incident struct {
	hashTag      string                // of the question that failed, for the probes
	since        time.Duration         // when it began, by Dispatcher.Now
	disconnected atomic.Bool           // there may be no connection
	open         atomic.Bool           // the state is Open, not HalfOpen
	cause        atomic.Pointer[error] // the last failure
	resolved     chan struct{}         // closed when the state is no longer HalfOpen
	reported     chan struct{}         // closed when changed has returned for the state Open
	over         chan struct{}         // closed when the state is Closed again
}

// allow returns nil if a call may be sent, and otherwise an error. If there may be no connection, it first waits until
// the breaker opens or closes.
func (b *breaker) allow() error {
	for {
		i := b.incident.Load()
		switch {
		case i == nil:
			return nil
		case i.open.Load():
			return *i.cause.Load()
		case !i.disconnected.Load():
			return nil
		}
		select {
		case <-i.resolved:
		case <-b.closing.Done():
			return ErrClosed
		}
	}
}

// openError returns the last failure if the state is Open, and nil otherwise.
func (b *breaker) openError() error {
	if i := b.incident.Load(); i != nil && i.open.Load() {
		return *i.cause.Load()
	}
	return nil
}

// awaitClosed waits for the state Closed, and reports whether it came within the given time.
func (b *breaker) awaitClosed(within time.Duration) bool {
	i := b.incident.Load()
	if i == nil {
		return true
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-i.over:
		return true
	case <-b.closing.Done():
	case <-timer.C:
	}
	return false
}

// suspect makes a closed breaker half-open, because a question with the given hash tag has failed. The argument
// disconnected means that there may be no connection. It also takes effect if the breaker is half-open already.
func (b *breaker) suspect(hashTag string, cause error, disconnected bool) {
	if i := b.incident.Load(); i != nil && (!disconnected || i.disconnected.Load()) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch i := b.incident.Load(); {
	case b.closed:
	case i != nil:
		i.disconnected.Store(i.disconnected.Load() || disconnected)
	default:
		i := &incident{
			hashTag: strings.Clone(hashTag), since: b.now(),
			resolved: make(chan struct{}), reported: make(chan struct{}), over: make(chan struct{}),
		}
		i.cause.Store(&cause)
		i.disconnected.Store(disconnected)
		b.incident.Store(i)
		b.changed(Closed, HalfOpen, i.since, cause)
		b.background.Go(func() { b.keepProbing(i) })
	}
}

const (
	// maxPause is the longest pause between probes.
	maxPause = 500 * time.Millisecond
	// probeTimeout is how long a probe waits for its answer. It is long because a Redis that hangs answers as soon as
	// it continues. dialTimeout is how long a probe waits if it may have to make a connection. It is shorter because
	// another server may meanwhile have replaced the one that is being dialed.
	probeTimeout, dialTimeout = 5 * time.Second, time.Second
)

// keepProbing probes until it can close the breaker. If that takes longer than half a timeout, it opens the breaker.
func (b *breaker) keepProbing(i *incident) {
	cancelled := func() bool { return b.closing.Err() != nil || b.incident.Load() != i || i.open.Load() }
	b.clock.afterFunc(b.clock.timeout/2, cancelled, func() { b.setOpen(i) })
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		var answered, late atomic.Bool
		b.clock.afterFunc(b.clock.timeout, answered.Load, func() { late.Store(true) })
		err := b.sendProbe(i)
		answered.Store(true)
		switch {
		case err == nil && !late.Load():
			b.setClosed(i)
			return
		case err == nil: // Redis answers, but too late
			b.setOpen(i)
			pause = time.Millisecond
		default:
			i.cause.Store(&err)
			if _, rejected := rueidis.IsRedisErr(err); !rejected || readOnly(err) {
				i.disconnected.Store(true)
			}
		}
		select {
		case <-b.closing.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
	}
}

// sendProbe sends a probe, and returns its error.
func (b *breaker) sendProbe(i *incident) error {
	timeout := probeTimeout
	if i.disconnected.Load() {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithCancel(b.closing) // without a deadline, at which rueidis would close the connection
	defer cancel()
	defer time.AfterFunc(timeout, cancel).Stop()
	err := b.probe(ctx, i.hashTag)
	if err != nil && ctx.Err() != nil && b.closing.Err() == nil {
		return errors.New("no answer to a probe within " + timeout.String())
	}
	return err
}

// setOpen opens the breaker, unless the incident is over or it is open already.
//
// Here and in setClosed, changed is called without the lock, because it may log, and the program's handler may take any
// time or call the Limiter.
func (b *breaker) setOpen(i *incident) {
	b.mu.Lock()
	opens := b.incident.Load() == i && !i.open.Swap(true)
	cause := *i.cause.Load()
	if opens {
		close(i.resolved)
		b.opening(cause)
	}
	b.mu.Unlock()
	if opens {
		defer close(i.reported)
		b.changed(HalfOpen, Open, i.since, cause)
	}
}

// setClosed closes the breaker, which ends the incident.
func (b *breaker) setClosed(i *incident) {
	b.mu.Lock()
	b.incident.Store(nil)
	close(i.over)
	opened := i.open.Load()
	if !opened {
		close(i.resolved)
	}
	b.mu.Unlock()
	if opened {
		<-i.reported
		b.changed(Open, Closed, i.since, nil)
	} else {
		b.changed(HalfOpen, Closed, i.since, nil)
	}
}

// close waits until there are no more probes. The context closing must have been cancelled.
func (b *breaker) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.background.Wait()
}
