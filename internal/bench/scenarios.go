package main

import (
	"fmt"
	"math/rand"
	"time"
)

// scenario is a load that each of its contenders gets in turn.
type scenario struct {
	name, about string
	contenders  []contender
	redis       bool
	setup       setup
	walks       []walk
	denies      bool // whether some requests must be denied, or none may be
}

const zipfS = 1.1

func scenarios() []scenario {
	spread, zipf, thousand, addresses := numbered("user-%05d", 10_000), numbered("user-%06d", 100_000), numbered("user-%03d", 1000), addresses(1000)
	hot := numbered("user-%d", 1)
	never := setup{max: 1000, window: 10 * time.Second}
	local := setup{max: 10_000, window: 100 * time.Millisecond} // short, so that logs are cleaned within a turn
	return []scenario{
		{name: "spread/256", about: "10,000 keys, never at the limit", contenders: onRedis, redis: true, setup: never, walks: around(spread, 256)},
		{name: "spread/8", about: "the same from 8 goroutines", contenders: onRedis, redis: true, setup: never, walks: around(spread, 8)},
		{name: "spread/1", about: "the same from one", contenders: onRedis, redis: true, setup: never, walks: around(spread, 1)},
		{name: "hot", about: "one key, never at its limit of 10,000,000 per second", contenders: onRedis, redis: true,
			setup: setup{max: 10_000_000, window: time.Second}, walks: around(hot, 256)},
		{name: "denied", about: "one key, 100 per second, so nearly always denied", contenders: onRedis, redis: true,
			setup: setup{max: 100, window: time.Second}, walks: around(hot, 256), denies: true},
		{name: "zipf", about: "100,000 keys by Zipf 1.1, 100 per 10 s", contenders: onRedis, redis: true,
			setup: setup{max: 100, window: 10 * time.Second}, walks: drawn(zipf, 256), denies: true},
		{name: "memory", about: "1,000 keys, 10,000 per 100 ms, 2 goroutines", contenders: inMemory, setup: local, walks: shuffled(thousand, 2)},
		{name: "gin/256", about: "a request through Gin, 1,000 addresses, 256 goroutines", contenders: throughGin, setup: local, walks: shuffled(addresses, 256)},
		{name: "gin/1", about: "the same from one goroutine", contenders: throughGin, setup: local, walks: shuffled(addresses, 1)},
		{name: "echo/256", about: "a request through Echo, 1,000 addresses, 256 goroutines", contenders: throughEcho, setup: local, walks: shuffled(addresses, 256)},
		{name: "echo/1", about: "the same from one goroutine", contenders: throughEcho, setup: local, walks: shuffled(addresses, 1)},
	}
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

// around has each worker begin elsewhere and go through all keys.
func around(keys []string, workers int) []walk {
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

// shuffled has each worker go through all keys in an order of its own. In one order, workers that share nothing but keys would
// meet at one key and then go on in step.
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

// drawn has each worker go through a sequence of its own, the same for every contender.
func drawn(keys []string, workers int) []walk {
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

// check makes sure that every contender limits.
func (s scenario) check(redis *server) error {
	for i, c := range s.contenders {
		if c.reference {
			continue
		}
		setup := s.setup
		setup.prefix = fmt.Sprint("check-", s.name, i)
		if s.redis {
			setup.addr = redis.addr
			if err := redis.flush(); err != nil {
				return err
			}
		}
		if err := c.check(setup, [2]string{s.walks[0].keys[0], "192.0.2.99:1"}); err != nil {
			return fmt.Errorf("%s: %s does not limit: %w", s.name, c.name, err)
		}
	}
	return nil
}

// play gives every contender a turn in each round. The order rotates, so that none always runs first or behind the same one.
func (s scenario) play(redis *server, rounds int, length time.Duration, progress func(string)) (result, error) {
	turns := make([][]turn, len(s.contenders))
	for round := range rounds {
		for i := range s.contenders {
			i = (i + round) % len(s.contenders)
			t, err := s.turn(redis, i, round, length)
			if err != nil {
				return result{}, fmt.Errorf("%s: %s: %w", s.name, s.contenders[i].name, err)
			}
			turns[i] = append(turns[i], t)
			progress(fmt.Sprintf("%s %d/%d %s %s/s", s.name, round+1, rounds, s.contenders[i].name, amount(t.perSecond())))
		}
	}
	return s.sum(turns), nil
}

func (s scenario) turn(redis *server, i, round int, length time.Duration) (turn, error) {
	setup := s.setup
	setup.workers, setup.prefix = len(s.walks), fmt.Sprintf("r%dc%d", round, i)
	if s.redis {
		setup.addr = redis.addr
		if err := redis.flush(); err != nil {
			return turn{}, err
		}
	}
	l, err := s.contenders[i].open(setup)
	if err != nil {
		return turn{}, err
	}
	defer l.close()
	t, err := run(l, s.walks, length)
	if err == nil && s.denies != (t.denied+t.deniedBefore > 0) {
		err = fmt.Errorf("%d denials of %d requests, and %d before", t.denied, t.asked, t.deniedBefore)
	}
	return t, err
}

// sum takes the medians over the rounds.
func (s scenario) sum(turns [][]turn) result {
	of := func(turns []turn, f func(turn) float64) []float64 {
		values := make([]float64, len(turns))
		for i, t := range turns {
			values[i] = f(t)
		}
		return values
	}
	r := result{Name: s.name, About: s.about, Goroutines: len(s.walks)}
	ours := of(turns[0], turn.perSecond)
	for i, c := range s.contenders {
		rates := of(turns[i], turn.perSecond)
		r.Rows = append(r.Rows, row{
			Contender: c.name,
			How:       c.how,
			Reference: c.reference,
			PerSecond: median(rates),
			Rates:     rates,
			Ratio:     median(ratios(ours, rates)),
			P50:       time.Duration(median(of(turns[i], func(t turn) float64 { return float64(quantile(t.samples, 0.5)) }))),
			P99:       time.Duration(median(of(turns[i], func(t turn) float64 { return float64(quantile(t.samples, 0.99)) }))),
			Samples:   int(median(of(turns[i], func(t turn) float64 { return float64(len(t.samples)) }))),
			Allocs:    median(of(turns[i], turn.allocs)),
			Denied:    median(of(turns[i], func(t turn) float64 { return float64(t.denied) / float64(t.asked) })),
		})
	}
	return r
}
