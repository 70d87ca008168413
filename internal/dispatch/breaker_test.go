package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// broken is a breaker in a bubble, whose probes the test answers.
type broken struct {
	breaker
	start   time.Time
	close   context.CancelFunc
	probes  int
	answer  func() error // what a probe comes to
	changes []string
}

func newBroken() *broken {
	b := &broken{start: time.Now(), answer: func() error { return nil }}
	now := func() time.Duration { return time.Since(b.start) }
	var mu sync.Mutex
	b.breaker = breaker{
		now: now,
		probe: func(context.Context, string) error {
			b.probes++
			return b.answer()
		},
		opening: func(error) {},
		changed: func(from, to State, _ time.Duration, cause error) {
			change := fmt.Sprint(now().Milliseconds(), " ", stateNames[from], "->", stateNames[to], " ", cause)
			mu.Lock()
			defer mu.Unlock()
			b.changes = append(b.changes, change)
		},
	}
	b.closing, b.close = context.WithCancel(context.Background())
	b.clock = &clock{timeout: 100 * time.Millisecond, now: now, closing: b.closing}
	return b
}

// end returns when nothing runs any more.
func (b *broken) end() {
	b.close()
	b.breaker.close()
	time.Sleep(time.Second)
	synctest.Wait()
}

var stateNames = [...]string{Closed: "Closed", HalfOpen: "HalfOpen", Open: "Open"}

// These are the changes that the type lists, on a clock that stands still while anything runs.
func TestBreaker(t *testing.T) {
	timeout, lost, late := errors.New("no answer"), io.EOF, func(d time.Duration, err error) func() error {
		return func() error { time.Sleep(d); return err }
	}
	for name, row := range map[string]struct {
		lost   bool
		answer func(probe int) func() error
		want   []string
	}{
		"the first probe succeeds": {false, func(int) func() error { return late(50*time.Millisecond-1, nil) },
			[]string{"0 Closed->HalfOpen no answer", "49 HalfOpen->Closed <nil>"}},
		"and one that makes a connection": {true, func(int) func() error { return late(time.Millisecond, nil) },
			[]string{"0 Closed->HalfOpen no answer", "1 HalfOpen->Closed <nil>"}},
		"no probe has succeeded for half a timeout": {false,
			func(int) func() error { return late(90*time.Millisecond, nil) },
			[]string{"0 Closed->HalfOpen no answer", "50 HalfOpen->Open no answer", "90 Open->Closed <nil>"}},
		"a probe is answered too late": {false, func(probe int) func() error {
			return late([]time.Duration{150, 150, 10}[min(probe, 3)-1]*time.Millisecond, nil)
		}, []string{"0 Closed->HalfOpen no answer", "50 HalfOpen->Open no answer", "Open->Closed <nil>"}},
		"each probe fails at first": {true, func(probe int) func() error {
			if probe < 20 {
				return late(0, lost)
			}
			return late(0, nil)
		}, []string{"0 Closed->HalfOpen no answer", "50 HalfOpen->Open EOF", "Open->Closed <nil>"}},
		"no probe is answered at first": {false, func(probe int) func() error {
			if probe < 3 {
				return late(time.Hour, nil)
			}
			return late(0, nil)
		}, []string{"0 Closed->HalfOpen no answer", "50 HalfOpen->Open no answer", "Open->Closed <nil>"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroken()
				b.answer = func() error { return row.answer(b.probes)() }
				if name == "no probe is answered at first" {
					b.probe = func(ctx context.Context, _ string) error {
						if b.probes++; b.probes < 3 {
							<-ctx.Done()
							return ctx.Err()
						}
						return nil
					}
				}
				b.suspect("key", timeout, row.lost)
				time.Sleep(time.Minute)
				synctest.Wait()
				assert.Len(t, b.changes, len(row.want))
				if name == "a probe is answered too late" {
					assert.Equal(t, 3, b.probes, "the third is the first in time")
				}
				for i := range b.changes {
					assert.Contains(t, b.changes[i], row.want[i])
				}
				assert.NoError(t, b.openError())
				assert.NoError(t, b.allow())
				b.suspect("key", timeout, row.lost) // and it starts anew
				synctest.Wait()
				assert.Contains(t, b.changes[len(row.want)], "Closed->HalfOpen")
				b.end()
			})
		})
	}
}

// A report of a change may take any time, as a logger may. Meanwhile callers do not wait, and the breaker opens again.
func TestChangedBlocks(t *testing.T) {
	b := newBroken()
	var up atomic.Bool
	b.answer = func() error {
		if up.Load() {
			return nil
		}
		return io.EOF
	}
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.changed = func(from, to State, _ time.Duration, _ error) {
		if from == Open && to == Closed {
			once.Do(func() { close(blocked) })
			<-release
		}
	}
	eventually := func(holds func() bool) {
		t.Helper()
		require.Eventually(t, holds, 10*time.Second, time.Millisecond)
	}
	b.suspect("key", io.EOF, true)
	eventually(func() bool { return b.openError() != nil })
	up.Store(true)
	redistest.Receive(t, blocked)
	assert.NoError(t, b.allow(), "it is closed already")

	up.Store(false)
	suspected := make(chan struct{})
	go func() { b.suspect("key", io.EOF, true); close(suspected) }()
	redistest.Receive(t, suspected)
	eventually(func() bool { return b.openError() != nil })
	up.Store(true)
	close(release)
	eventually(func() bool { return b.incident.Load() == nil })
	b.close()
	b.breaker.close()
}

// Calls go on while it is half-open, and wait where there may be no connection. None goes while it is open, and why
// is known.
func TestPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroken()
		defer b.end()
		answers := make(chan error)
		b.answer = func() error {
			select {
			case err := <-answers:
				return err
			case <-b.closing.Done():
				return b.closing.Err()
			}
		}
		pass := func() <-chan error {
			passed := make(chan error, 1)
			go func() { passed <- b.allow() }()
			synctest.Wait()
			return passed
		}
		assert.NoError(t, b.allow())
		b.suspect("key", context.DeadlineExceeded, false)
		assert.NoError(t, <-pass(), "half-open")
		b.suspect("key", io.EOF, true)
		waits := pass()
		assert.Empty(t, waits, "the connection is lost")
		assert.NoError(t, b.openError(), "questions may come")
		answers <- nil
		assert.NoError(t, <-waits, "closed")

		b.suspect("key", io.EOF, true)
		waits = pass()
		time.Sleep(90 * time.Millisecond)
		synctest.Wait()
		assert.ErrorIs(t, <-waits, io.EOF, "open")
		assert.ErrorIs(t, b.allow(), io.EOF)
		assert.ErrorIs(t, b.openError(), io.EOF)
		refused := errors.New("refused")
		answers <- refused
		synctest.Wait()
		assert.ErrorIs(t, b.openError(), refused, "the latest cause")
		answers <- nil
		synctest.Wait()
		assert.NoError(t, b.allow(), "closed")
		assert.NoError(t, b.openError())

		b.suspect("key", io.EOF, true)
		waits = pass()
		b.close()
		assert.ErrorIs(t, <-waits, ErrClosed)
		b.breaker.close()
		b.suspect("key", io.EOF, true)
		synctest.Wait()
		b.breaker.close()
	})
}

// A Redis that rejects probes is not one that is gone: it is asked every half second, and the breaker is open
// meanwhile.
func TestProbesAreFewWhileOpen(t *testing.T) {
	refused := rejection(t, "NOPERM no")
	synctest.Test(t, func(t *testing.T) {
		b := newBroken()
		b.answer = func() error { return refused }
		b.suspect("key", refused, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []string{"0 Closed->HalfOpen NOPERM no", "50 HalfOpen->Open NOPERM no"}, b.changes)
		assert.Greater(t, b.probes, 100)
		assert.Less(t, b.probes, 300)
		assert.False(t, b.incident.Load().disconnected.Load())
		b.end()
	})
}
