package torture

import (
	"slices"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

const ms = time.Millisecond

var faults = []struct {
	name string
	play func(*scene)
}{
	{"none", none},
	{"none, several limits", severalLimits},
	{"replies lost, several limits", twoLimits(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost, of calls that cost more", costMore(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost, of calls that cost more or less", costAny(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost", chance(Faults{Command: "EVALSHA", LoseReply: 0.05})},
	{"replies lost, of requests that cost 1", light(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost, with bans", bans},
	{"requests lost", chance(Faults{Command: "EVALSHA", LoseRequest: 0.05})},
	{"connections reset", chance(Faults{Command: "EVALSHA", Reset: 0.05})},
	{"requests delayed beyond the timeout", chance(Faults{Command: "EVALSHA", DelayRequest: 0.03, Delay: 150 * ms})},
	{"replies delayed beyond the timeout", chance(Faults{Command: "EVALSHA", DelayReply: 0.03, Delay: 150 * ms})},
	{"network cut", cut},
	{"slow handshakes", slowHandshakes},
	{"narrow network", narrow},
	{"SCRIPT FLUSH every 20 ms", scriptFlush},
	{"CLIENT KILL every 20 ms", light(clientKill)},
	{"Redis stopped", stopped},
	{"overload", overload},
	{"kill -9, restart", light(restart(false))},
	{"kill -9, restart empty", restart(true)},
	{"a restart that loads, fail-closed", light(loading)},
	{"Redis gone from the start", light(gone)},
	{"errors of the server", serverErrors},
	{"a log of another type", wrongType},
	{"clock stepped", clockSteps},
	{"SENTINEL FAILOVER", sentinelFailover(false)},
	{"sentinel's master hangs", sentinelFailover(true)},
	{"CLUSTER FAILOVER", clusterFailover((*redistest.Cluster).Failover)},
	{"a cluster's master killed", clusterFailover((*redistest.Cluster).Kill)},
	{"slots moved", slotsMoved},
	{"requests in flight", inFlight},
}

func appendOnly(s *scene, config ...string) *redistest.Server {
	return redistest.Start(s, slices.Concat(redistest.AppendOnly, config)...)
}

// none has many callers of one key, whose requests are admitted at once, so that ids might collide. There is no denial
// cache, so that some requests come in the very microsecond in which an entry expires.
func none(s *scene) {
	s.Keys, s.Limit.Max, s.Costs, s.Goroutines, s.Pause, s.Burst = keys(1), 400, nil, 24, 300*time.Microsecond, 0
	s.quiet, s.Timeout, s.Hold = true, 5*time.Second, -1
	server := appendOnly(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() { s.last(700 * ms) })
	assert.Zero(s, h.unknown(), "Redis decides: %v", h.errors())
}

// severalLimits has calls under two limits, of which sometimes one and sometimes the other denies.
func severalLimits(s *scene) {
	s.Timeout, s.Second = 5*time.Second, core.Limit{Name: "second", Max: 2_500_000, Window: 300 * ms}
	server := appendOnly(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() { s.last(500 * ms) })
	assert.Zero(s, h.unknown(), "Redis decides: %v", h.errors())
	denied := [2]int{}
	for _, call := range h.Calls {
		for i, state := range call.States {
			if !call.Allowed && state[0] > 0 {
				denied[i]++
			}
		}
	}
	assert.Positive(s, denied[0])
	assert.Positive(s, denied[1])
}

// twoLimits plays a fault under a load of calls under two limits. No request is so light that the script has to read
// many entries for a denial, which is often cut short then: see History.cutShort.
func twoLimits(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Costs = []int{25_000, 25_000, 50_000, 100_000}
		s.Second = core.Limit{Name: "second", Max: 7_500_000, Window: 900 * ms}
		play(s)
	}
}

// costMore plays a fault under a load whose calls turn out to cost more than they were charged.
func costMore(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Settled = []int{100, 110, 150, 400}
		// A call that settles is sent again only within half of a window, as one that admits: see lengthen.
		s.Limit.Window, s.Limit.Max = 2*s.Limit.Window, 2*s.Limit.Max
		play(s)
	}
}

// costAny plays a fault under a load whose calls, under two limits, turn out to cost more or less than they were
// charged. The windows need not be full, since what was given back does not count.
func costAny(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Settled, s.quiet = []int{0, 0, 30, 100, 200}, true
		s.Second = core.Limit{Name: "second", Max: 5_000_000, Window: 900 * ms}
		s.Limit.Window, s.Limit.Max = 2*s.Limit.Window, 2*s.Limit.Max
		play(s)
	}
}

// lengthen makes windows longer than it takes to send a call again on a busy machine. A call is sent again only within
// half of a window, since afterwards its retry might not find what it has charged.
func (s *scene) lengthen() {
	s.Limit.Window, s.Limit.Max = 5*s.Limit.Window, 5*s.Limit.Max
}

// bans has logs that fill at once and are then banned for longer than their windows, again and again, while replies are
// lost.
func bans(s *scene) {
	s.Limit = core.Limit{Name: "exact", Max: 100, Window: 250 * ms, Ban: 400 * ms}
	s.Costs, s.Timeout, s.quiet = nil, 5*time.Second, true
	s.Hold = 20 * ms // so that Redis is asked during a ban
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	h, _ := s.play(proxy.URL(), []*redistest.Server{server}, func() {
		proxy.Strike(Faults{Command: "EVALSHA", LoseReply: 0.05})
		s.last(1500 * ms)
		require.NoError(s, proxy.Heal())
	})
	assert.Zero(s, h.unknown(), "a call is sent again within its time: %v", h.errors())
	begun := 0
	for _, of := range h.Bans {
		begun += len(of)
	}
	assert.Greater(s, begun, len(s.Keys), "every key is banned more than once")
	for _, call := range h.Calls {
		if !call.Allowed && call.Retry > 1 && !call.Banned { // see foundedInRedis
			s.Errorf("%s: denied without a ban, by a call from %d to %d", call.Key, call.Sent, call.Came)
			break
		}
	}
}

// inFlight has requests that take longer than their leases and are released once or twice, while replies and requests
// are lost, and the network is cut for less than a lease.
func inFlight(s *scene) {
	s.Limit, s.Keys, s.Costs = core.InFlight("flight", 12, 2*time.Second), keys(2), []int{1, 1, 2, 3}
	s.Policy, s.Timeout, s.Goroutines, s.Pause, s.Burst, s.Holds = core.FailClosed, 5*time.Second, 12, 3*ms, 0, 20*ms
	server := appendOnly(s)
	client := server.Client(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	s.URL = proxy.URL()
	stop := s.start(s, s.processes)
	proxy.Strike(Faults{Command: "EVALSHA", LoseReply: 0.1, LoseRequest: 0.05})
	s.last(2500 * ms)
	proxy.Hold()
	s.last(200 * ms)
	require.NoError(s, proxy.Heal())
	s.last(1000 * ms)
	f := Flights{Max: s.Limit.Max}
	long := 0
	for _, seen := range stop() {
		f.Calls = append(f.Calls, seen.Calls...)
	}
	denied := 0
	for _, call := range f.Calls {
		if call.Ends-call.Came > s.Limit.Window.Microseconds() {
			long++
		}
		if !call.Allowed {
			denied++
		}
	}
	for _, violation := range f.Check() {
		s.Error(violation)
	}
	assert.Positive(s, len(proxy.Struck()), "no request met its fate, so this shows nothing")
	assert.Positive(s, long, "no request took longer than its lease, so this shows nothing of renewals")
	assert.Positive(s, denied, "there was always room, so this shows nothing")
	for _, key := range s.Keys {
		left, err := redistest.Do(s, client, "EXISTS", s.log(key)).AsInt64()
		require.NoError(s, err)
		assert.Zero(s, left, "all were released")
	}
}
