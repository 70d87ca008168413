package torture

import (
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// chance has faults happen to calls by chance.
func chance(f Faults) func(*scene) {
	return func(s *scene) {
		delays := f.DelayReply+f.DelayRequest > 0
		if !delays {
			s.Timeout = 5 * time.Second
			s.lengthen()
		}
		server := appendOnly(s)
		proxy := NewProxy(s, server.Addr, s.seed)
		h, _ := s.play(proxy.URL(), []*redistest.Server{server}, func() {
			proxy.Strike(f)
			s.last(1200 * ms)
			require.NoError(s, proxy.Heal())
		})
		assert.Positive(s, len(proxy.Struck()), "no request met its fate, so this shows nothing")
		if !delays {
			assert.Zero(s, h.unknown(), "a call is sent again within its time: %v", h.errors())
		}
	}
}

// cut has a network that carries nothing, then refuses connections, and then works again.
func cut(s *scene) {
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	s.play(proxy.URL(), []*redistest.Server{server}, func() {
		proxy.Hold()
		s.last(1800 * ms)
		require.NoError(s, proxy.Heal())
		s.last(200 * ms)
		proxy.Refuse()
		proxy.Cut()
		s.last(400 * ms)
		require.NoError(s, proxy.Heal())
		s.last(200 * ms)
	})
}

// slowHandshakes has handshakes that take longer than a call may, while connections are cut again and again.
func slowHandshakes(s *scene) {
	s.Timeout = 25 * ms
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	s.play(proxy.URL(), []*redistest.Server{server}, func() {
		proxy.Strike(Faults{Command: "HELLO", DelayReply: 1, Delay: 40 * ms})
		s.every(200*ms, 1000*ms, proxy.Cut)
		require.NoError(s, proxy.Heal())
	})
}

// narrow has a network that carries less and less: enough for batches, and then too little for all calls.
func narrow(s *scene) {
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	h, _ := s.play(proxy.URL(), []*redistest.Server{server}, func() {
		for _, rate := range []int{1_000_000, 300_000, 20_000} {
			proxy.Narrow(rate)
			s.last(600 * ms)
		}
		require.NoError(s, proxy.Heal())
		s.last(400 * ms)
	})
	assert.NotZero(s, h.unknown(), "the network carried all, so this shows nothing")
}
