package core

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// deadlines ends calls that take too long, without a timer for each: calls that begin within the same few milliseconds end
// at the same moment, and none later than its timeout.
type deadlines struct {
	timeout time.Duration
	current atomic.Pointer[moment]
}

// moment is when some calls end. As a context it has no deadline to be seen, since rueidis closes a connection on which one
// passes, under those who have come meanwhile.
type moment struct {
	begun time.Duration // on the clock of redisLogs.now
	end   time.Duration
	over  atomic.Bool
	done  chan struct{}
	late  error
}

// at returns the end of a call that begins now.
func (d *deadlines) at(now time.Duration) *moment {
	old := d.current.Load()
	if old != nil && now-old.begun < d.timeout/16 {
		return old
	}
	m := &moment{
		begun: now,
		end:   now + d.timeout,
		done:  make(chan struct{}),
		late:  fmt.Errorf("no answer within %v: %w", d.timeout, context.DeadlineExceeded),
	}
	d.current.CompareAndSwap(old, m) // or somebody else's is as good, for the next calls
	afterListening(d.timeout, d.timeout, nil, func() {
		m.over.Store(true)
		close(m.done)
	})
	return m
}

func (m *moment) Deadline() (time.Time, bool) { return time.Time{}, false }
func (m *moment) Done() <-chan struct{}       { return m.done }
func (m *moment) Value(key any) any           { return isRequest(key) }

func (m *moment) Err() error {
	if m.over.Load() {
		return m.late
	}
	return nil
}

// request is the context of a call that cannot do with a moment alone: it ends with the caller's context if that is earlier,
// and has the caller's values where a client of the caller's own may want them, for tracing.
type request struct {
	context.Context
	end *moment // nil where the context is earlier
}

func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }

func (r *request) Done() <-chan struct{} {
	if r.end == nil {
		return r.Context.Done()
	}
	return r.end.Done()
}

func (r *request) Err() error {
	if r.end == nil {
		return r.Context.Err()
	}
	return r.end.Err()
}

func (r *request) Value(key any) any {
	if is := isRequest(key); is != nil {
		return is
	}
	return r.Context.Value(key)
}

// requestKey marks contexts of requests.
type requestKey struct{}

func isRequest(key any) any {
	if key == (requestKey{}) {
		return true
	}
	return nil
}

func isRequestContext(ctx context.Context) bool { return ctx.Value(requestKey{}) != nil }

// undated hides a context's deadline from rueidis, which gives up at the end of the context all the same.
func undated(ctx context.Context) context.Context { return &request{Context: ctx} }
