package torture

import (
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// scriptFlush has a server that forgets the script again and again.
func scriptFlush(s *scene) {
	s.Policy, s.Timeout = core.FailClosed, 5*time.Second
	server := appendOnly(s)
	client := server.Client(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.every(20*ms, 1000*ms, func() { redistest.Do(s, client, "SCRIPT", "FLUSH") })
	})
	assert.Zero(s, h.unknown(), "a flush costs nothing")
}

// clientKill has a server that closes connections again and again.
func clientKill(s *scene) {
	s.lengthen()
	s.Policy, s.Timeout = core.FailClosed, 5*time.Second
	server := appendOnly(s)
	client := server.Client(s)
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.every(20*ms, 1500*ms, func() {
			redistest.Do(s, client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		})
	})
	assert.Zero(s, h.unknown(), "a call is sent again within its time: %v", h.errors())
}

// stopped has a Redis that hangs, under more callers than can have calls in flight.
func stopped(s *scene) {
	s.processes, s.Keys, s.Limit.Max, s.Costs, s.Burst, s.within = 1, keys(40), 10, nil, 0, 2*time.Second
	server := appendOnly(s)
	for i, load := range []struct {
		callers         int
		pause           time.Duration
		stopped         time.Duration
		deadline, waits time.Duration // of the callers' contexts, if any, and how long they wait at most
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

// restart has a server that is killed and restarted, with its data or empty.
func restart(empty bool) func(*scene) {
	return func(s *scene) {
		server := appendOnly(s, "appendfsync always")
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

// loading has a Redis that is restarted, and answers LOADING while it reads its data.
func loading(s *scene) {
	s.Policy = core.FailClosed
	server := appendOnly(s, "appendfsync always", "key-load-delay 1000", "loading-process-events-interval-bytes 1024")
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.last(300 * ms)
		server.Kill()
		require.NoError(s, server.Start())
		s.last(500 * ms)
	})
	assert.Regexp(s, "LOADING|no answer to a probe", strings.Join(h.errors(), "\n")) // which waits while Redis loads
}

// gone has no Redis until the load is nearly over. One instance admits exactly Max in each window.
func gone(s *scene) {
	s.processes = 1
	server := appendOnly(s)
	server.Kill()
	_, processes := s.play(server.URL(), []*redistest.Server{server}, func() {
		s.last(1000 * ms)
		require.NoError(s, server.Start())
		s.last(1200 * ms)
	})
	fullest := fullestLocally(processes[0].Calls, s.Limit.Window)
	assert.Equal(s, s.Limit.Max, fullest, "a process without Redis admits no less")
}

// serverErrors has a server that refuses calls for one reason after the other. Meanwhile each instance decides by
// itself.
func serverErrors(s *scene) {
	server := appendOnly(s, "busy-reply-threshold 20")
	client := server.Client(s)
	do := func(command string) { redistest.Do(s, client, strings.Fields(command)...) }
	unreachable := fmt.Sprint(redistest.FreePort(s))
	h, _ := s.play(server.URL(), []*redistest.Server{server}, func() {
		for _, refusal := range []struct{ begin, end string }{
			{"CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"},                         // OOM
			{"CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"}, // NOREPLICAS
			{"REPLICAOF 127.0.0.1 " + unreachable, "REPLICAOF NO ONE"},                   // READONLY
			{"ACL SETUSER default -zadd", "ACL SETUSER default +zadd"},                   // NOPERM
			{"ACL SETUSER default -evalsha -eval", "ACL SETUSER default +evalsha +eval"}, // NOPERM, of the probe too
		} {
			do(refusal.begin)
			s.last(200 * ms)
			do(refusal.end)
			s.last(200 * ms)
		}
		// BUSY: a script that runs until it is killed.
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

// wrongType has a string where a log should be. It harms that key alone.
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

// clockSteps has the server's clock step, by different amounts.
func clockSteps(s *scene) {
	for _, windows := range []float64{0.1, 1, 10, -0.1, -1, -10} {
		s.Prefix = fmt.Sprint("torture", windows)
		s.what = fmt.Sprintf("clock stepped by %+v windows", windows)
		s.steps = nil
		server := redistest.StartWithClock(s, redistest.AppendOnly...)
		step := time.Duration(windows * float64(s.Limit.Window))
		s.play(server.URL(), []*redistest.Server{server}, func() {
			// The server is paused for longer than the smallest step back, so that the scores of the last entries
			// before the step, which it may not have recorded yet, are not those of the first entries after it.
			require.NoError(s, server.Pause())
			stopped := time.Now().UnixMicro()
			time.Sleep(20 * ms)
			recorded := map[string]int{}
			for log, admitted := range server.Admissions(s) {
				recorded[log] = len(admitted)
			}
			offset := server.StepClock(s, step)
			require.NoError(s, server.Resume())
			s.steps = append(s.steps, Step{
				From: stopped - 5000, To: stopped, Offset: offset.Microseconds(), Recorded: recorded,
			})
			time.Sleep(max(0, -step) + 3*s.Limit.Window)
		})
	}
}
