package torture

import (
	"fmt"
	"slices"
	"strings"
	"testing"
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
	{"replies lost, of calls that cost more", costMore(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost, of calls that cost more or less", costAny(chance(Faults{Command: "EVALSHA", LoseReply: 0.05}))},
	{"replies lost", chance(Faults{Command: "EVALSHA", LoseReply: 0.02})},
	{"replies lost, of requests that cost 1", light(chance(Faults{Command: "EVALSHA", LoseReply: 0.02}))},
	{"replies lost, with bans", bans},
	{"requests lost", chance(Faults{Command: "EVALSHA", LoseRequest: 0.02})},
	{"connections reset", chance(Faults{Command: "EVALSHA", Reset: 0.02})},
	{"requests delayed beyond the timeout", chance(Faults{Command: "EVALSHA", DelayRequest: 0.01, Delay: 150 * ms})},
	{"replies delayed beyond the timeout", chance(Faults{Command: "EVALSHA", DelayReply: 0.01, Delay: 150 * ms})},
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

// none is to see that the load fills the logs, and that ids do not collide: many callers of one key, admitted at once.
func none(s *scene) {
	s.Keys, s.Limit.Max, s.Costs, s.Goroutines, s.Pause, s.Burst = keys(1), 2000, nil, 24, 300*time.Microsecond, 0
	s.quiet, s.Timeout = true, 5*time.Second
	server := appendOnly(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() { s.last(700 * ms) })
	assert.Zero(s, h.unknown(), "Redis decides: %v", h.errors())
}

// severalLimits charges two limits with each call, of which now the one and now the other denies.
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

// unknown counts the calls of which Redis may not have decided.
func (h History) unknown() int {
	n := 0
	for _, call := range h.Calls {
		if !call.known() {
			n++
		}
	}
	return n
}

// errors are the words of the errors that callers got.
func (h History) errors() (words []string) {
	for _, call := range h.Calls {
		if call.Err != "" && !slices.Contains(words, call.Err) {
			words = append(words, call.Err)
		}
	}
	return words
}

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
			assert.Zero(s, h.unknown(), "a call is made again within its time: %v", h.errors())
		}
	}
}

// costMore is a fault under a load whose calls turn out to cost more than they were charged.
func costMore(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Settled = []int{100, 110, 150, 400}
		// A call that settles is made again only within half of a window, as one that admits: see lengthen.
		s.Limit.Window, s.Limit.Max = 2*s.Limit.Window, 2*s.Limit.Max
		play(s)
	}
}

// costAny is a fault under a load whose calls turn out to cost anything, in both of their limits. Their windows need
// not be full, since what was given back is not counted.
func costAny(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Settled, s.quiet = []int{0, 0, 30, 100, 200}, true
		s.Second = core.Limit{Name: "second", Max: 5_000_000, Window: 900 * ms}
		s.Limit.Window, s.Limit.Max = 2*s.Limit.Window, 2*s.Limit.Max
		play(s)
	}
}

// lengthen has windows that are longer than it takes to make a call again on a busy machine. After a window it is not made again,
// since what it has charged would no longer be found.
func (s *scene) lengthen() {
	s.Limit.Window, s.Limit.Max = 5*s.Limit.Window, 5*s.Limit.Max
}

// bans has logs that fill at once, and are then banned for longer than their windows, again and again, while replies
// are lost.
func bans(s *scene) {
	s.Limit = core.Limit{Name: "exact", Max: 100, Window: 250 * ms, Ban: 400 * ms}
	s.Costs, s.Timeout, s.quiet = nil, 5*time.Second, true
	s.Hold = 20 * ms // so that Redis is asked during a ban, too
	server := appendOnly(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	h, _ := s.play(proxy.URL(), []*redistest.Server{server}, func() {
		proxy.Strike(Faults{Command: "EVALSHA", LoseReply: 0.02})
		s.last(1500 * ms)
		require.NoError(s, proxy.Heal())
	})
	assert.Zero(s, h.unknown(), "a call is made again within its time: %v", h.errors())
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

// cut is a network that carries nothing, then one that refuses connections, and then is whole again.
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

// slowHandshakes take longer than a call may. Connections are cut all the while, and come back all the same.
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

// narrow is a network that carries less and less: enough for batches, and then too little for all.
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

func scriptFlush(s *scene) {
	s.Policy, s.Timeout = core.FailClosed, 5*time.Second
	server := appendOnly(s)
	client := server.Client(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.every(20*ms, 1000*ms, func() { redistest.Do(s, client, "SCRIPT", "FLUSH") })
	})
	assert.Zero(s, h.unknown(), "a flush costs nothing")
}

func clientKill(s *scene) {
	s.lengthen()
	s.Policy, s.Timeout = core.FailClosed, 5*time.Second
	server := appendOnly(s)
	client := server.Client(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.every(20*ms, 1500*ms, func() { redistest.Do(s, client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") })
	})
	assert.Zero(s, h.unknown(), "a call is made again within its time: %v", h.errors())
}

// stopped is a Redis that hangs, under more callers than can be on their way to it.
func stopped(s *scene) {
	s.processes, s.Keys, s.Limit.Max, s.Costs, s.Burst, s.within = 1, keys(40), 10, nil, 0, 2*time.Second
	server := appendOnly(s)
	for i, load := range []struct {
		callers         int
		pause           time.Duration
		stopped         time.Duration
		deadline, waits time.Duration // of the callers' contexts, if they have one, and what they wait at most
	}{
		{1000, 100 * ms, 1000 * ms, 0, 100 * ms},
		{5000, 400 * ms, 1500 * ms, 50 * ms, 50 * ms},
	} {
		s.Prefix = fmt.Sprint("torture", i)
		s.Goroutines, s.Pause, s.Load.Deadline = load.callers, load.pause, load.deadline
		s.what = fmt.Sprintf("Redis stopped for %v, %d callers who wait %v", load.stopped, load.callers, load.waits)
		s.play(server.URL(), []*redistest.Server{server}, func() {
			time.Sleep(500 * ms)
			require.NoError(s, server.Pause())
			s.last(load.stopped)
			require.NoError(s, server.Resume())
			time.Sleep(time.Second)
		})
	}
}

// overload is a service with more runnable goroutines than processors: beside a healthy Redis, a slow one, and one that
// stops. Lateness of the service is not silence of Redis, so only the last one is an outage.
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
	s.Goroutines, s.Busy = 16, 8 // or the process is calm while its callers wait
	h = play("Redis stopped", func() {
		require.NoError(s, server.Pause())
		s.last(4500 * ms)
		require.NoError(s, server.Resume())
		s.last(1000 * ms)
	})
	assert.NotZero(s, h.unknown(), "a Redis that stops is noticed all the same")
}

func restart(empty bool) func(*scene) {
	return func(s *scene) {
		server := redistest.Start(s, append(slices.Clone(redistest.AppendOnly), "appendfsync always")...)
		if empty {
			s.losses = 1
		}
		s.play(server.URL(), []*redistest.Server{server}, func() {
			s.last(300 * ms)
			server.Kill()
			time.Sleep(200 * ms)
			if empty {
				require.NoError(s, server.StartEmpty())
			} else {
				require.NoError(s, server.Start())
			}
			s.last(700 * ms)
		})
	}
}

// loading is a Redis that is there again and refuses with LOADING while it reads its data.
func loading(s *scene) {
	s.Policy = core.FailClosed
	server := redistest.Start(s, append(slices.Clone(redistest.AppendOnly), "appendfsync always", "key-load-delay 1000", "loading-process-events-interval-bytes 1024")...)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.last(300 * ms)
		server.Kill()
		require.NoError(s, server.Start())
		s.last(500 * ms)
	})
	assert.Regexp(s, "LOADING|no answer to a probe", strings.Join(h.errors(), "\n")) // which waits while Redis loads
}

// gone is no Redis from the start until the load is nearly over. One instance admits exactly Max in each window.
func gone(s *scene) {
	s.processes = 1
	server := appendOnly(s)
	server.Kill()
	_, processes := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.last(1000 * ms)
		require.NoError(s, server.Start())
		s.last(1200 * ms)
	})
	assert.Equal(s, s.Limit.Max, fullestLocally(processes[0].Calls, s.Limit.Window), "and no fewer")
}

// serverErrors are a server's refusals, one after the other. While it refuses, each instance decides by itself.
func serverErrors(s *scene) {
	server := appendOnly(s, "busy-reply-threshold 20")
	client := server.Client(s)
	do := func(words ...string) { redistest.Do(s, client, words...) }
	unreachable := fmt.Sprint(redistest.FreePort(s))
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		for _, refusal := range []struct{ begin, end []string }{
			{[]string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"}},                               // OOM
			{[]string{"CONFIG", "SET", "min-replicas-to-write", "1"}, []string{"CONFIG", "SET", "min-replicas-to-write", "0"}},       // NOREPLICAS
			{[]string{"REPLICAOF", "127.0.0.1", unreachable}, []string{"REPLICAOF", "NO", "ONE"}},                                    // READONLY
			{[]string{"ACL", "SETUSER", "default", "-zadd"}, []string{"ACL", "SETUSER", "default", "+zadd"}},                         // NOPERM
			{[]string{"ACL", "SETUSER", "default", "-evalsha", "-eval"}, []string{"ACL", "SETUSER", "default", "+evalsha", "+eval"}}, // and of the probe
		} {
			do(refusal.begin...)
			s.last(200 * ms)
			do(refusal.end...)
			s.last(200 * ms)
		}
		// BUSY: a script that goes on until it is killed.
		busy := client.B().Eval().Script("while true do end").Numkeys(0).Build()
		done := make(chan struct{})
		other := server.Client(s)
		go func() {
			defer close(done)
			client.Do(s.Context(), busy)
		}()
		s.last(300 * ms)
		redistest.Do(s, other, "SCRIPT", "KILL")
		<-done
		s.last(800 * ms)
	})
	assert.Zero(s, report[len(report)-1].Errors)
	assert.Positive(s, h.unknown())
}

// wrongType is a key of somebody else's where a log should be. It harms that key alone.
func wrongType(s *scene) {
	s.Timeout = 5 * time.Second
	server := appendOnly(s)
	client := server.Client(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		redistest.Do(s, client, "SET", s.log(Key(0)), "no log")
		s.last(500 * ms)
		redistest.Do(s, client, "DEL", s.log(Key(0)))
		s.last(300 * ms)
	})
	for _, call := range h.Calls {
		if call.Key != Key(0) {
			assert.True(s, call.known(), "%+v", call)
		}
	}
}

// clockSteps of the server, each long enough after the last one that its entries are out of the windows.
func clockSteps(s *scene) {
	for _, windows := range []float64{0.1, 1, 10, -0.1, -1, -10} {
		s.Prefix = fmt.Sprint("torture", windows)
		s.what = fmt.Sprintf("clock stepped by %+v windows", windows)
		s.steps = nil
		server := redistest.StartWithClock(s, redistest.AppendOnly...)
		step := time.Duration(windows * float64(s.Limit.Window))
		s.play(server.URL(), []*redistest.Server{server}, func() {
			// The server stands still meanwhile, and for longer than the smallest step back, so that the scores of what it did
			// last before the step, which it may not have recorded yet, are not those of what it does first after it.
			require.NoError(s, server.Pause())
			stopped := time.Now().UnixMicro()
			time.Sleep(20 * ms)
			recorded := map[string]int{}
			for log, admitted := range server.Admissions(s) {
				recorded[log] = len(admitted)
			}
			offset := server.StepClock(s, step)
			require.NoError(s, server.Resume())
			s.steps = append(s.steps, Step{From: stopped - 5000, To: stopped, Offset: offset.Microseconds(), Recorded: recorded})
			time.Sleep(max(0, -step) + 3*s.Limit.Window)
		})
	}
}

// sentinelFailover replaces a master, in good order or because it hangs. What it had not yet sent to its replica is forgotten.
func sentinelFailover(hang bool) func(*scene) {
	return func(s *scene) {
		set := redistest.StartSentinelSet(s, "shop", 1, redistest.AppendOnly...)
		s.losses = 1
		var old, master *redistest.Server
		s.play(set.URL(), set.Servers, func() {
			old = set.Master(s)
			if hang {
				master = set.Hang(s)
				s.last(500 * ms)
				require.NoError(s, old.Resume())
				old.AwaitReplica(s)
			} else {
				master = set.Failover(s)
			}
			s.until(set.URL())
		})
		s.forgotten(old, master)
	}
}

// clusterFailover replaces one of three masters. The keys of the others are not touched.
func clusterFailover(replace func(*redistest.Cluster, testing.TB, *redistest.Server) *redistest.Server) func(*scene) {
	return func(s *scene) {
		cluster := redistest.StartCluster(s, 3, 1, redistest.AppendOnly...)
		s.losses = 1
		var old, master *redistest.Server
		s.play(cluster.URL(), cluster.Servers(), func() {
			old = cluster.MasterOf(s, s.log(Key(0)))
			master = replace(cluster, s, old)
			s.until(cluster.URL())
		})
		s.forgotten(old, master)
	}
}

// slotsMoved moves the slot of each key to another master, while it is in use. For a time the logs of a key are on two servers,
// which answer TRYAGAIN.
func slotsMoved(s *scene) {
	s.Policy = core.FailClosed
	s.Timeout, s.Second = 5*time.Second, core.Limit{Name: "second", Max: 2_500_000, Window: 300 * ms}
	cluster := redistest.StartCluster(s, 3, 0, redistest.AppendOnly...)
	h, _ := s.play(cluster.URL(), cluster.Servers(), func() {
		for _, key := range s.Keys {
			slot, from := cluster.Slot(s, s.log(key)), cluster.MasterOf(s, s.log(key))
			to := cluster.Masters[(slices.Index(cluster.Masters, from)+1)%len(cluster.Masters)]
			cluster.MoveSlot(s, slot, to, 100*ms)
		}
		s.until(cluster.URL())
	})
	assert.Zero(s, h.unknown(), "a call is made again within its time: %v", h.errors())
}

// until waits until calls for every key are decided by Redis.
func (s *scene) until(url string) {
	limiter, err := core.Connect(url, core.WithPrefix(s.Prefix), core.OnFailure(core.FailClosed))
	require.NoError(s, err)
	defer limiter.Close()
	for _, key := range s.Keys {
		require.Eventually(s, func() bool {
			_, err := limiter.Peek(s.Context(), key, s.Limit)
			return err == nil
		}, 60*time.Second, 20*ms, "%s is not decided by Redis again", key)
	}
	s.last(500 * ms)
}

// forgotten writes into the report how many admissions a master took with it.
func (s *scene) forgotten(old, master *redistest.Server) {
	s.Helper()
	lost := redistest.Missing(redistest.Merge(old.Records(s)...), redistest.Merge(master.Records(s)...))
	report[len(report)-1].Lost = lost.Len()
}

// inFlight has requests that take longer than their leases and are released once or twice, while replies and requests are
// lost, and the network is cut for less than a lease.
func inFlight(s *scene) {
	s.Limit, s.Keys, s.Costs = core.InFlight("flight", 12, 2*time.Second), keys(2), []int{1, 1, 2, 3}
	s.Policy, s.Timeout, s.Goroutines, s.Pause, s.Burst, s.Holds = core.FailClosed, 5*time.Second, 12, 3*ms, 0, 20*ms
	server := appendOnly(s)
	client := server.Client(s)
	proxy := NewProxy(s, server.Addr, s.seed)
	s.URL = proxy.URL()
	stop := s.start(s, s.processes)
	proxy.Strike(Faults{Command: "EVALSHA", LoseReply: 0.1, LoseRequest: 0.02})
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
