package core

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/dispatch"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// record is a log that the test reads.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *record) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// logger is the option that has a limiter write to the record.
func (l *record) logger() Option { return WithLogger(slog.New(slog.NewTextHandler(l, nil))) }

func (l *record) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(strings.Lines(l.text.String()))
}

// Outages and rejections are reported apart: each at most every ten seconds, an outage once, and only if a caller had
// no decision.
func TestReports(t *testing.T) {
	down, lost, late := errors.New("refused"), errors.New("EOF"), context.DeadlineExceeded
	type step struct {
		at   int // seconds
		does string
		says string
	}
	const dead, again = "WARN Redis does not answer; requests are decided without it", "INFO Redis decides again"
	const rejects = "WARN Redis rejects calls; requests are decided without it"
	for name, timeline := range map[string][]step{
		"an outage of several breakers is one": {
			{1, "open", dead + " error=refused"}, {2, "open", ""}, {3, "close", ""}, {4, "close", again + " after=3s"},
		},
		"it is told of once, however long it lasts": {
			{1, "open", dead + " error=refused"}, {20, "undecided", ""}, {40, "undecided", ""},
			{61, "close", again + " after=1m0s"}, {62, "open", dead + " error=refused"},
		},
		"one that begins too soon after the last report is told of if it lasts": {
			{1, "open", dead + " error=refused"}, {2, "close", again + " after=1s"},
			{3, "open", ""}, {4, "close", ""},
			{5, "open", ""}, {10, "undecided", ""}, {11, "undecided", dead + " error=EOF"}, {12, "undecided", ""},
			{15, "close", again + " after=10s"},
		},
		"a call that is late is none": {
			{1, "late", ""}, {2, "open", dead + " error=refused"}, {3, "late", ""}, {4, "close", again + " after=2s"},
		},
		"calls that are lost are told of": {
			{1, "undecided", dead + " error=EOF"}, {2, "undecided", ""}, {11, "undecided", dead + " error=EOF"},
		},
		"rejections": {
			{1, "reject", rejects + " error=NOPERM"}, {10, "reject", ""},
			{11, "reject", rejects + " error=NOPERM"}, {12, "reject", ""},
		},
		"an outage just after a rejection": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open", dead + " error=refused"}, {3, "reject", ""},
			{4, "close", again + " after=2s"},
		},
		"a rejection in an outage": {
			{1, "open", dead + " error=refused"}, {2, "reject", rejects + " error=NOPERM"},
			{3, "close", again + " after=2s"},
		},
		"a breaker that rejections open": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""}, {3, "reject", ""},
			{4, "close", again + " after=2s"},
			{5, "open", dead + " error=refused"}, {6, "close", again + " after=1s"},
		},
		"a breaker that rejections open again and again": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""},
			{3, "close", again + " after=1s"},
			{4, "open by rejections", ""}, {5, "close", ""}, {6, "open by rejections", ""}, {7, "close", ""},
			{11, "open by rejections", rejects + " error=NOPERM"}, {12, "close", again + " after=1s"},
		},
		"and then Redis does not answer": {
			{1, "reject", rejects + " error=NOPERM"}, {2, "open by rejections", ""},
			{3, "undecided", dead + " error=EOF"}, {4, "close", again + " after=2s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			said := &record{}
			r := &reporter{logger: slog.New(slog.NewTextHandler(said, nil))}
			for i, s := range timeline {
				before, at := len(said.all()), time.Duration(s.at)*time.Second
				switch s.does {
				case "open":
					r.changed(dispatch.HalfOpen, dispatch.Open, at, at, down)
				case "open by rejections":
					r.changed(dispatch.HalfOpen, dispatch.Open, at, at, rejection(t))
				case "close":
					r.changed(dispatch.Open, dispatch.Closed, at, at, nil)
				case "undecided":
					r.undecided(lost, at)
				case "late":
					r.undecided(late, at)
				case "reject":
					r.undecided(rejection(t), at)
				}
				told := said.all()[before:]
				if s.says == "" {
					assert.Empty(t, told, i)
					continue
				}
				require.Len(t, told, 1, i)
				level, rest, _ := strings.Cut(s.says, " ")
				text, attribute, _ := strings.Cut(rest, " error=")
				text, after, _ := strings.Cut(text, " after=")
				assert.Contains(t, told[0], "level="+level+` msg="exactlimit: `+text+`"`)
				assert.Contains(t, told[0], attribute)
				assert.Contains(t, told[0], after)
			}
		})
	}
}

// An outage that begins before the limiter does is measured from the limiter's start.
func TestMeasureBeforeRedisComes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	limiter := connectTo(t, server.URL(), silent)
	time.Sleep(20 * time.Millisecond)
	before := limiter.redis.state()
	assert.Equal(t, 1, before.openBreakers)
	assert.GreaterOrEqual(t, before.outage, 20*time.Millisecond)
	require.NoError(t, server.Start())
	last := before
	require.Eventually(t, func() bool {
		state := limiter.redis.state()
		assert.GreaterOrEqual(t, state.outage, last.outage)
		last = state
		return state.openBreakers == 0
	}, 10*time.Second, time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	assert.Equal(t, last.outage, limiter.redis.state().outage, "it is over")

	limiter = connectTo(t, server.URL())
	assert.Zero(t, limiter.redis.state().outage)
}

// The end of an outage is logged, even if a caller reports its error before the reporter knows that a breaker is open.
func TestCallersReportFirst(t *testing.T) {
	said := &record{}
	r := &reporter{logger: slog.New(slog.NewTextHandler(said, nil))}
	for _, at := range []time.Duration{0, time.Minute} {
		r.undecided(io.EOF, at+501*time.Millisecond)
		r.changed(dispatch.HalfOpen, dispatch.Open, at+500*time.Millisecond, at+502*time.Millisecond, io.EOF)
		r.changed(dispatch.Open, dispatch.Closed, at+500*time.Millisecond, at+5*time.Second, nil)
	}
	require.Len(t, said.all(), 4)
	assert.Contains(t, said.all()[3], "decides again")
}

// Breakers that are open at the same time are one outage in the metrics too.
func TestMeasure(t *testing.T) {
	r := &reporter{logger: slog.New(slog.DiscardHandler)}
	const second = time.Second
	change := func(from, to dispatch.State, at time.Duration) { r.changed(from, to, at, at, io.EOF) }
	change(dispatch.HalfOpen, dispatch.Open, 1*second)
	change(dispatch.HalfOpen, dispatch.Open, 2*second)
	open, total := r.measure(3 * second)
	assert.Equal(t, 2, open)
	assert.Equal(t, 2*second, total)
	change(dispatch.Open, dispatch.Closed, 4*second)
	change(dispatch.Closed, dispatch.HalfOpen, 5*second)
	change(dispatch.HalfOpen, dispatch.Closed, 5*second)
	change(dispatch.Open, dispatch.Closed, 6*second)
	change(dispatch.HalfOpen, dispatch.Open, 9*second)
	open, total = r.measure(10 * second)
	assert.Equal(t, 1, open)
	assert.Equal(t, 6*second, total)
}

// rejection returns an error of the server whose text names a key.
func rejection(t *testing.T) error {
	client := redistest.Shared(t).Client(t)
	const script = "return redis.error_reply('NOPERM no rights to {ann}')"
	return client.Do(context.Background(), client.B().Eval().Script(script).Numkeys(0).Build()).Error()
}
