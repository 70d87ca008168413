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
	// Closed lets calls through.
	Closed State = iota
	// HalfOpen lets a probe find out whether Redis answers. Calls go on where they only took too long, and wait for the
	// outcome where the connection was lost.
	HalfOpen
	// Open turns calls away, and probes from time to time.
	Open
)

// breaker is a circuit breaker. These are its changes:
//
//	Closed   -> HalfOpen  when a caller got no answer, a connection was lost, or Redis rejected a call
//	HalfOpen -> Closed    when a probe succeeds in time
//	HalfOpen -> Open      when no probe has succeeded for half a timeout
//	Open     -> Closed    when a probe succeeds in time
type breaker struct {
	clock   *clock
	now     func() time.Duration
	probe   func(ctx context.Context, hashTag string) error
	changed func(from, to State, since time.Duration, cause error)
	closing context.Context

	mu       sync.Mutex // held to change the state
	closed   bool       // no probe begins any more
	incident atomic.Pointer[incident]
	probes   sync.WaitGroup
}

// incident is the time in which a breaker is not closed.
type incident struct {
	hashTag string        // of a question without an answer, to probe with
	since   time.Duration // on the clock of Dispatcher.now
	lost    atomic.Bool   // there may be no connection
	open    atomic.Bool
	cause   atomic.Pointer[error] // of the last failure
	settled chan struct{}         // closed when the breaker opens or closes
}

// pass returns once a call may be sent, or an error if it may not.
func (b *breaker) pass() error {
	for {
		i := b.incident.Load()
		switch {
		case i == nil:
			return nil
		case i.open.Load():
			return *i.cause.Load()
		case !i.lost.Load():
			return nil
		}
		select {
		case <-i.settled:
		case <-b.closing.Done():
			return ErrClosed
		}
	}
}

// open returns why calls are turned away, or nil if they are not.
func (b *breaker) open() error {
	if i := b.incident.Load(); i != nil && i.open.Load() {
		return *i.cause.Load()
	}
	return nil
}

// suspect makes a closed breaker half-open, because of a question with a hash tag. Lost says that there may be no connection.
func (b *breaker) suspect(hashTag string, cause error, lost bool) {
	if i := b.incident.Load(); i != nil && (!lost || i.lost.Load()) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch i := b.incident.Load(); {
	case b.closed:
	case i != nil:
		i.lost.Store(i.lost.Load() || lost)
	default:
		i := &incident{hashTag: strings.Clone(hashTag), since: b.now(), settled: make(chan struct{})}
		i.cause.Store(&cause)
		i.lost.Store(lost)
		b.incident.Store(i)
		b.changed(Closed, HalfOpen, i.since, cause)
		b.probes.Go(func() { b.recover(i) })
	}
}

const (
	// maxPause is the longest pause between two probes.
	maxPause = 500 * time.Millisecond
	// probeTimeout is how long a probe waits, and dialTimeout how long if it may have to make a connection. A Redis that was
	// stopped answers what it was asked before; but a connection that is being made may be one to a server that is gone.
	probeTimeout, dialTimeout = 5 * time.Second, time.Second
)

// recover probes until the breaker can be closed.
func (b *breaker) recover(i *incident) {
	settled := func() bool { return b.closing.Err() != nil || b.incident.Load() != i || i.open.Load() }
	b.clock.call(b.clock.timeout/2, settled, func() { b.setOpen(i) })
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		var answered, late atomic.Bool
		b.clock.call(b.clock.timeout, answered.Load, func() { late.Store(true) })
		err := b.ask(i)
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
				i.lost.Store(true)
			}
		}
		select {
		case <-b.closing.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
	}
}

// ask sends one probe.
func (b *breaker) ask(i *incident) error {
	timeout := probeTimeout
	if i.lost.Load() {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithCancel(b.closing) // with a deadline, rueidis would close a connection on which it passes
	defer cancel()
	defer time.AfterFunc(timeout, cancel).Stop()
	err := b.probe(ctx, i.hashTag)
	if err != nil && ctx.Err() != nil && b.closing.Err() == nil {
		return errors.New("no answer to a probe within " + timeout.String())
	}
	return err
}

func (b *breaker) setOpen(i *incident) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.incident.Load() == i && !i.open.Swap(true) {
		close(i.settled)
		b.changed(HalfOpen, Open, i.since, *i.cause.Load())
	}
}

func (b *breaker) setClosed(i *incident) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.incident.Store(nil)
	if i.open.Load() {
		b.changed(Open, Closed, i.since, nil)
	} else {
		b.changed(HalfOpen, Closed, i.since, nil)
		close(i.settled)
	}
}

// close returns when nothing probes any more. The context closing has ended before.
func (b *breaker) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.probes.Wait()
}
