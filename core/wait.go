package core

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Wait is Allow for who would rather come later than not at all: it returns when the request is admitted, or an error that
// wraps ErrUnavailable when the context ends first. Where that is certain beforehand, since the context's deadline is before
// there can be room, it fails at once, and with context.DeadlineExceeded.
//
// It asks when there is room and not before. Those who wait here for the same key under the same limits do so in the order
// in which they came, one asking at a time; with those who wait in other instances they race for each unit. Give it a context
// that ends: a line can be long.
func (l *Limiter) Wait(ctx context.Context, key string, limits ...Limit) (Decision, error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	var name []byte
	for _, limit := range limits {
		name = fmt.Appendf(appendLogKey(name, "", canonicalKey(key), limit), ":%d\n", limit.Max)
	}
	turn, err := l.lines.join(ctx, string(name))
	if err != nil {
		return Decision{}, unavailable(err)
	}
	defer turn.end()
	for {
		d, err := l.Allow(ctx, key, limits...)
		if err != nil || d.Allowed {
			return d, err
		}
		nap := d.RetryAfter
		if l.redis != nil && d.Source == SourceInProcess {
			nap = min(nap, time.Second) // Redis may be back by then, and know of other room
		}
		woken, err := turn.announce(ctx, time.Now().Add(nap))
		if err != nil {
			return Decision{}, unavailable(err)
		}
		timer := time.NewTimer(nap)
		select {
		case <-timer.C:
		case <-woken: // there may be room
		case <-l.gone: // and the next Allow says so
		case <-ctx.Done():
			timer.Stop()
			return Decision{}, unavailable(ctx.Err())
		}
		timer.Stop()
	}
}

// lines is those who wait, in a line for each question.
type lines struct {
	mu   sync.Mutex
	name map[string]*line
}

// line is there while somebody's turn is.
type line struct {
	behind []chan struct{} // closed when its turn comes
	room   time.Time       // not before then, unless woken
	woken  chan struct{}   // closed when something was given back; nil while nobody sleeps
}

// turn is the right to ask.
type turn struct {
	lines *lines
	name  string
}

// join waits in a line until it is one's turn.
func (l *lines) join(ctx context.Context, name string) (turn, error) {
	t := turn{l, name}
	l.mu.Lock()
	in := l.name[name]
	if in == nil {
		l.name[name] = &line{}
		l.mu.Unlock()
		return t, nil
	}
	if err := early(ctx, in.room); err != nil {
		l.mu.Unlock()
		return t, err
	}
	comes := make(chan struct{})
	in.behind = append(in.behind, comes)
	l.mu.Unlock()
	select {
	case <-comes:
		return t, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(in.behind, comes)
	if i >= 0 {
		in.behind = slices.Delete(in.behind, i, i+1)
	}
	l.mu.Unlock()
	if i < 0 { // the turn has just come, and is somebody else's then
		t.end()
	}
	return t, ctx.Err()
}

// announce says to those in the line until when there is no room. What it returns is closed when there may be some earlier.
func (t turn) announce(ctx context.Context, room time.Time) (woken <-chan struct{}, err error) {
	t.lines.mu.Lock()
	defer t.lines.mu.Unlock()
	in := t.lines.name[t.name]
	in.room, in.woken = room, make(chan struct{})
	return in.woken, early(ctx, room)
}

// wake has those ask who wait for a key.
func (l *lines) wake(canonical string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, in := range l.name {
		if in.woken != nil && strings.HasPrefix(name, ":{"+canonical+"}:") {
			close(in.woken)
			in.woken, in.room = nil, time.Time{}
		}
	}
}

// end gives the turn to who is next.
func (t turn) end() {
	t.lines.mu.Lock()
	defer t.lines.mu.Unlock()
	in := t.lines.name[t.name]
	if len(in.behind) == 0 {
		delete(t.lines.name, t.name)
		return
	}
	close(in.behind[0])
	in.behind = slices.Delete(in.behind, 0, 1)
}

// early is the error of a context that ends before there is room.
func early(ctx context.Context, room time.Time) error {
	if deadline, dated := ctx.Deadline(); dated && deadline.Before(room) {
		return fmt.Errorf("there is room in %v, after the deadline: %w", time.Until(room).Round(time.Microsecond), context.DeadlineExceeded)
	}
	return nil
}
