package main

import (
	"fmt"
	"math/rand"
	"strings"
	"time"
)

// scenario is a load that each of its contenders handles in turn.
type scenario struct {
	name, about string
	contenders  []contender
	kind        kind
	masters     int // masters of Redis: none, one, or several for a cluster
	setup       setup
	goroutines  int
	walks       func() []walk // one for each goroutine
	denies      bool          // whether some requests must be denied, or none may be
	burn        time.Duration // of CPU, after each decision of the kind overload
}

type kind int

const (
	loop     kind = iota // goroutines send requests without a pause
	overload             // goroutines of two processes compute between requests
	service              // clients send requests to an HTTP server
)

const zipfS = 1.1

func scenarios() []scenario {
	hot := numbered("user-%d", 1)
	never := setup{max: 1000, window: 10 * time.Second}
	local := setup{max: 10_000, window: 100 * time.Millisecond} // short, so that logs are cleaned within a turn
	spread := func(goroutines int) func() []walk {
		return func() []walk { return inTurn(numbered("user-%05d", 10_000), goroutines) }
	}
	onHot := func() []walk { return inTurn(hot, 256) }
	byZipf := func() []walk { return zipfian(numbered("user-%06d", 100_000), 256) }
	byAddress := func(goroutines int) func() []walk {
		return func() []walk { return shuffled(addresses(1000), goroutines) }
	}
	metered := never
	metered.metered = true
	minute := setup{max: 1000, window: time.Minute} // longer than a turn, because audit compares budgets with requests
	return []scenario{
		{name: "spread/256", about: "10,000 keys, never at the limit", contenders: onRedis, masters: 1,
			setup: never, goroutines: 256, walks: spread(256)},
		{name: "spread/8", about: "the same from 8 goroutines", contenders: onRedis, masters: 1,
			setup: never, goroutines: 8, walks: spread(8)},
		{name: "spread/1", about: "the same from one", contenders: onRedis, masters: 1, setup: never,
			goroutines: 1, walks: spread(1)},
		{name: "hot", about: "one key, never at its limit of 10,000,000 per second", contenders: onRedis, masters: 1,
			setup: setup{max: 10_000_000, window: time.Second}, goroutines: 256, walks: onHot},
		{name: "denied", about: "one key, 100 per second, so nearly always denied", contenders: onRedis, masters: 1,
			setup: setup{max: 100, window: time.Second}, goroutines: 256, walks: onHot, denies: true},
		{name: "zipf", about: "100,000 keys by Zipf 1.1, 100 per 10 s", contenders: onRedis, masters: 1,
			setup: setup{max: 100, window: 10 * time.Second}, goroutines: 256, walks: byZipf, denies: true},
		{name: "cluster", about: "Redis Cluster of 3 masters, 10,000 keys, never at the limit, 256 goroutines",
			contenders: onCluster, masters: 3, setup: never, goroutines: 256, walks: spread(256)},
		{name: "service", about: fmt.Sprintf("a Gin server on Redis, with requests over %d keep-alive connections; "+
			"10,000 clients by %s, never at the limit", connections, apiKey),
			contenders: services, kind: service, masters: 1, setup: minute, goroutines: connections},
		{name: "overload/3ms", about: "2 processes of 64 goroutines that compute for 3 ms after each decision; " +
			"a healthy Redis, 10,000 keys, never at the limit",
			contenders: overloaded, kind: overload, masters: 1, setup: metered, goroutines: 64,
			walks: spread(64), burn: 3 * time.Millisecond},
		{name: "overload/10ms", about: "the same with 10 ms", contenders: overloaded, kind: overload,
			masters: 1, setup: metered,
			goroutines: 64, walks: spread(64), burn: 10 * time.Millisecond},
		{name: "memory", about: "1,000 keys, 10,000 per 100 ms, 2 goroutines", contenders: inMemory,
			setup: local, goroutines: 2,
			walks: func() []walk { return shuffled(numbered("user-%03d", 1000), 2) }},
		{name: "gin/256", about: "a request through Gin, 1,000 addresses, 256 goroutines",
			contenders: throughGin, setup: local, goroutines: 256, walks: byAddress(256)},
		{name: "gin/1", about: "the same from one goroutine", contenders: throughGin, setup: local,
			goroutines: 1, walks: byAddress(1)},
		{name: "echo/256", about: "a request through Echo, 1,000 addresses, 256 goroutines",
			contenders: throughEcho, setup: local, goroutines: 256, walks: byAddress(256)},
		{name: "echo/1", about: "the same from one goroutine", contenders: throughEcho, setup: local,
			goroutines: 1, walks: byAddress(1)},
	}
}

// choose keeps the contenders that are wanted, and always exactlimit, which is the first. If there is a build for
// another checkout, it becomes the second.
func (s *scenario) choose(wanted func(string) bool, other contender) {
	chosen := s.contenders[:1:1]
	if other.exe != "" {
		other.how = chosen[0].how
		chosen = append(chosen, other)
	}
	for _, c := range s.contenders[1:] {
		if wanted(c.name) {
			chosen = append(chosen, c)
		}
	}
	s.contenders = chosen
}

func numbered(format string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(format, i)
	}
	return keys
}

func addresses(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("192.0.%d.%d:%d", i/250, i%250, 40_000+i)
	}
	return keys
}

// inTurn has each worker go through all keys in turn, beginning at different ones.
func inTurn(keys []string, workers int) []walk {
	order := make([]uint32, len(keys))
	for i := range order {
		order[i] = uint32(i)
	}
	walks := make([]walk, workers)
	for i := range walks {
		walks[i] = walk{keys, order, i * 7919}
	}
	return walks
}

// shuffled has each worker go through all keys in its own order. With the same order, workers would meet at a key and
// then go on in step.
func shuffled(keys []string, workers int) []walk {
	walks := make([]walk, workers)
	for i := range walks {
		order := make([]uint32, len(keys))
		for j, k := range rand.New(rand.NewSource(int64(i))).Perm(len(keys)) {
			order[j] = uint32(k)
		}
		walks[i] = walk{keys, order, 0}
	}
	return walks
}

// zipfian has each worker go through its own sequence of keys, which is the same for all contenders.
func zipfian(keys []string, workers int) []walk {
	walks := make([]walk, workers)
	for i := range walks {
		zipf := rand.NewZipf(rand.New(rand.NewSource(int64(i))), zipfS, 1, uint64(len(keys)-1))
		order := make([]uint32, 4096)
		for j := range order {
			order[j] = uint32(zipf.Uint64())
		}
		walks[i] = walk{keys, order, 0}
	}
	return walks
}

// performer runs a job with one result: in a child process or, in tests, in this process.
type performer func(j job, exe string, result any) error

func inChild(j job, exe string, result any) error { return j.result(exe, result) }

// job returns the job of a contender. In a build for another checkout, its exactlimit has the name ours.
func (s scenario) job(c contender, redis servers, prefix string) job {
	name := c.name
	if c.exe != "" {
		name = ours
	}
	return job{Scenario: s.name, Contender: name, Addrs: redis.addrs(), Prefix: prefix}
}

// check checks that every contender limits.
func (s scenario) check(redis servers, perform performer) error {
	for i, c := range s.contenders {
		if c.reference {
			continue
		}
		if err := redis.flush(); err != nil {
			return err
		}
		j := s.job(c, redis, fmt.Sprint("check-", s.name, i))
		j.Check = true
		var err error
		if s.kind == service {
			err = checkService(j, c.exe)
		} else {
			err = perform(j, c.exe, new(turn))
		}
		if err != nil {
			return fmt.Errorf("%s: %s does not limit: %w", s.name, c.name, err)
		}
	}
	return nil
}

// play gives every contender a turn in each round. The order rotates, so that none always runs first or after the same
// one. In the kind overload, a goroutine computes for spin steps per microsecond of burn.
func (s scenario) play(redis servers, rounds int, length time.Duration, spin int64, perform performer,
	progress func(string)) (result, error) {
	turns := make([][]turn, len(s.contenders))
	for round := range rounds {
		for i := range s.contenders {
			i = (i + round) % len(s.contenders)
			t, err := s.turn(redis, i, round, length, spin, perform)
			if err != nil {
				return result{}, fmt.Errorf("%s: %s: %w", s.name, s.contenders[i].name, err)
			}
			turns[i] = append(turns[i], t)
			progress(fmt.Sprintf("%s %d/%d %s %s/s%s", s.name, round+1, rounds, s.contenders[i].name,
				amount(t.perSecond()), t.problems()))
		}
	}
	return s.sum(turns), nil
}

func (s scenario) turn(redis servers, i, round int, length time.Duration, spin int64, perform performer) (turn, error) {
	if err := redis.flush(); err != nil {
		return turn{}, err
	}
	c := s.contenders[i]
	j := s.job(c, redis, fmt.Sprintf("r%dc%d", round, i))
	j.Length = length
	var t turn
	var err error
	switch s.kind {
	case overload:
		j.Length, j.Spins = overloadTurns*length, spin*int64(s.burn/time.Microsecond)
		t, err = overloadTurn(j, c.exe)
	case service:
		t, err = serviceTurn(j, c.exe, s.setup, c.reference)
	default:
		err = perform(j, c.exe, &t)
	}
	if err != nil {
		return turn{}, err
	}
	return t, s.validate(t, redis, c)
}

// validate returns an error if a turn did not measure what it should.
func (s scenario) validate(t turn, redis servers, c contender) error {
	if t.Requests < 10 || t.Requests == t.Failed {
		return fmt.Errorf("%d calls, of which %d failed: %s", t.Requests, t.Failed, t.Failure)
	}
	if s.denies != (t.Denied+t.DeniedBefore > 0) {
		return fmt.Errorf("%d denials of %d requests, and %d before", t.Denied, t.Requests, t.DeniedBefore)
	}
	if s.kind != overload && t.Local > t.Requests/2 {
		return fmt.Errorf("%d of %d requests were decided without Redis: %v",
			t.Local, t.Requests, t.Diagnostics.Warnings)
	}
	if c.reference || len(redis) == 0 {
		return nil
	}
	n, err := redis.keys()
	if err == nil && n == 0 {
		err = fmt.Errorf("%d requests wrote no key to Redis", t.Requests)
	}
	return err
}

// problems describes the problems of a turn, to be printed after its rate.
func (t turn) problems() string {
	var b strings.Builder
	if t.Failed > 0 {
		fmt.Fprintf(&b, ", %d of %d calls failed: %s", t.Failed, t.Requests, t.Failure)
	}
	if t.Local > 0 {
		fmt.Fprintf(&b, ", %d of %d decided without Redis", t.Local, t.Requests)
	}
	if t.Diagnostics.Outage > 0 {
		fmt.Fprintf(&b, ", breaker open for %v", t.Diagnostics.Outage.Round(time.Millisecond))
	}
	for message, n := range t.Diagnostics.Warnings {
		fmt.Fprintf(&b, ", logged %d times: %s", n, message)
	}
	return b.String()
}

// sum returns the medians over the rounds.
func (s scenario) sum(turns [][]turn) result {
	of := func(turns []turn, f func(turn) float64) []float64 {
		values := make([]float64, len(turns))
		for i, t := range turns {
			values[i] = f(t)
		}
		return values
	}
	r := result{Name: s.name, About: s.about, Goroutines: s.goroutines}
	ours := of(turns[0], turn.perSecond)
	for i, c := range s.contenders {
		rates := of(turns[i], turn.perSecond)
		x := row{
			Contender: c.name,
			How:       c.how,
			Reference: c.reference,
			PerSecond: median(rates),
			Rates:     rates,
			Ratio:     median(ratios(ours, rates)),
			P50:       time.Duration(median(of(turns[i], func(t turn) float64 { return float64(t.P50) }))),
			P99:       time.Duration(median(of(turns[i], func(t turn) float64 { return float64(t.P99) }))),
			Samples:   int(median(of(turns[i], func(t turn) float64 { return float64(t.Timed) }))),
			Allocs:    median(of(turns[i], func(t turn) float64 { return t.per(float64(t.Mallocs)) })),
			Denied:    median(of(turns[i], func(t turn) float64 { return t.per(float64(t.Denied)) })),
			RedisCPU:  time.Duration(median(of(turns[i], func(t turn) float64 { return t.per(float64(t.RedisCPU)) }))),
		}
		for _, t := range turns[i] { // rare events are summed, because their median is mostly 0
			x.Requests += t.Requests
			x.Local += t.Local
			x.Failed += t.Failed
			if x.Failure == "" {
				x.Failure = t.Failure
			}
			x.Diagnostics.add(t.Diagnostics)
		}
		r.Rows = append(r.Rows, x)
	}
	return r
}
