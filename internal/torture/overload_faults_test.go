package torture

import (
	"fmt"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// overload has a service with more runnable goroutines than processors, beside a healthy Redis, a slow one, and one
// that stops. Lateness of the service is not silence of Redis, so only the last one is an outage.
func overload(s *scene) {
	s.Goroutines, s.Burn, s.Pause, s.Burst, s.quiet = 64, 3*ms, 0, 0, true
	s.within = 21 * s.timeout() // a starved process waits for up to 20 timeouts more
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	play := func(what string, fault func()) History {
		s.what, s.Prefix = "overload, "+what, fmt.Sprint("torture", len(report))
		h, _ := s.play(proxy.URL(), []*redistest.Server{server}, fault)
		return h
	}
	few := func(h History) int { return 1 + len(h.Calls)/1000 }
	h := play("Redis healthy", func() { s.last(1200 * ms) })
	assert.LessOrEqual(s, h.unknown(), few(h), "of %d decisions", len(h.Calls))
	h = play("Redis slow", func() {
		proxy.Strike(Faults{Command: "EVALSHA", DelayReply: 1, Delay: 5 * ms})
		s.last(1000 * ms)
		require.NoError(s, proxy.Heal())
	})
	assert.LessOrEqual(s, h.unknown(), few(h), "of %d decisions", len(h.Calls))
	s.Goroutines, s.Busy = 16, 8 // since the process would be calm while its callers wait
	h = play("Redis stopped", func() {
		require.NoError(s, server.Pause())
		s.last(4500 * ms)
		require.NoError(s, server.Resume())
		s.last(1000 * ms)
	})
	assert.NotZero(s, h.unknown(), "a Redis that stops is noticed")
}
