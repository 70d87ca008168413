package torture

import (
	"time"
)

// soakFault is a fault of a soak. Callers are paused while prepare runs.
type soakFault struct {
	name    string
	prepare func(*soak)
	play    func(*soak, time.Duration)
}

var soakFaults = []soakFault{
	{name: "connections killed", play: func(s *soak, d time.Duration) {
		s.watch(d, func() { s.do("CLIENT KILL TYPE normal SKIPME yes") })
	}},
	{name: "scripts flushed", play: func(s *soak, d time.Duration) { s.watch(d, func() { s.do("SCRIPT FLUSH") }) }},
	{name: "requests lost", play: struck(Faults{Command: "EVALSHA", LoseRequest: 0.02})},
	{name: "replies lost", play: struck(Faults{Command: "EVALSHA", LoseReply: 0.02})},
	{name: "connections reset", play: struck(Faults{Command: "EVALSHA", Reset: 0.02})},
	{name: "replies after the timeout", play: struck(Faults{Command: "EVALSHA", DelayReply: 0.01, Delay: 150 * ms})},
	{name: "slow network", play: struck(Faults{Command: "EVALSHA", DelayReply: 1, Delay: 5 * ms})},
	{name: "network cut", play: func(s *soak, d time.Duration) {
		s.proxy.Hold()
		s.watch(d/2, nil)
		s.heal()
		s.proxy.Refuse()
		s.proxy.Cut()
		s.watch(d/4, nil)
		s.heal()
	}},
	{name: "Redis killed and restarted", play: func(s *soak, d time.Duration) {
		s.server.Kill()
		s.watch(min(d/4, 500*ms), nil)
		if err := s.server.Start(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/2, nil)
	}},
	{name: "Redis stopped", play: func(s *soak, d time.Duration) {
		if err := s.server.Pause(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/2, nil)
		if err := s.server.Resume(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/4, nil)
	}},
	{name: "clock stepped forward", prepare: func(s *soak) { s.step(1) }, play: calm},
	{name: "clock stepped back", prepare: func(s *soak) { s.step(-1) }, play: calm},
}

// calm lets time pass without a fault.
func calm(s *soak, d time.Duration) { s.watch(d, nil) }

// struck has faults happen to calls by chance.
func struck(f Faults) func(*soak, time.Duration) {
	return func(s *soak, d time.Duration) {
		s.proxy.Strike(f)
		s.watch(d, nil)
		s.heal()
	}
}

func (s *soak) heal() {
	if err := s.proxy.Heal(); err != nil {
		s.Fatal(err)
	}
}

// step steps the server's clock, forward or back, by at most three seconds, which is more than any window, and often by
// little.
func (s *soak) step(sign time.Duration) {
	longest := s.random.Int64N(int64(3 * time.Second))
	by := time.Duration(s.random.Int64N(longest + 1)).Truncate(time.Microsecond)
	s.server.StepClock(s, sign*by)
	if sign < 0 {
		s.witness.StepBack(by)
	}
}
