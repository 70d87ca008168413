package main

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// walk is the keys that one goroutine asks for: in an order, from a place in it, and around.
type walk struct {
	keys  []string
	order []uint32 // indices, since pointers would give the garbage collector work
	from  int
}

// turn is what one contender did in one round.
type turn struct {
	Asked, Denied int
	DeniedBefore  int    // while warming up
	Local         int    // decided without Redis, of those that were to be decided by Redis
	Failed        int    // calls with an error, which only the scenarios named overload forgive
	Failure       string // the first of them
	Elapsed       time.Duration
	Mallocs       uint64
	RedisCPU      time.Duration // that all servers used
	P50, P99      time.Duration
	Timed         int // calls
	Said          diagnostics

	samples []time.Duration // of the timed calls, sorted
}

func (t turn) perSecond() float64    { return float64(t.Asked) / t.Elapsed.Seconds() }
func (t turn) per(n float64) float64 { return n / float64(max(1, t.Asked)) }

// summarize computes the quantiles from sorted samples.
func (t *turn) summarize() {
	slices.Sort(t.samples)
	t.P50, t.P99, t.Timed = quantile(t.samples, 0.5), quantile(t.samples, 0.99), len(t.samples)
}

// samplesPerTurn is about how many calls of a turn are timed. Timing all of them would be most of what a cached denial
// takes.
const samplesPerTurn = 20_000

// run gives a limiter a turn: a fifth of the time to warm up, then the rest, which counts.
func run(l *limiter, walks []walk, length time.Duration, addrs []string) (turn, error) {
	warmUp := length / 5
	warm, err := load(l, walks, warmUp, 16)
	if err != nil {
		return turn{}, err
	}
	every := max(1, 4*warm.Asked/samplesPerTurn)
	busy, err := redisCPU(addrs)
	if err != nil {
		return turn{}, err
	}
	local := l.decidedLocally()
	measured, err := load(l, walks, length-warmUp, every)
	if err != nil {
		return turn{}, err
	}
	after, err := redisCPU(addrs)
	measured.RedisCPU = after - busy
	measured.DeniedBefore = warm.Denied
	measured.Local = l.decidedLocally() - local
	if l.said != nil && err == nil {
		measured.Said, err = l.said()
	}
	return measured, err
}

// load has one goroutine for each walk ask as fast as it is answered, and times each of their every-th calls.
func load(l *limiter, walks []walk, length time.Duration, every int) (turn, error) {
	var (
		stop    atomic.Bool
		failed  atomic.Pointer[error]
		workers sync.WaitGroup
		turns   = make([]turn, len(walks))
		before  runtime.MemStats
		after   runtime.MemStats
	)
	for i := range turns {
		turns[i].samples = make([]time.Duration, 0, 2*samplesPerTurn/len(walks))
	}
	worker := func(w walk, t *turn) {
		samples, asked, denied, allow := t.samples, 0, 0, l.allow
		if l.each != nil {
			allow = l.each()
		}
		place, untilTimed := w.from%len(w.order), every
		for !stop.Load() {
			key := w.keys[w.order[place]]
			if place++; place == len(w.order) {
				place = 0
			}
			untilTimed--
			var sent time.Time
			if untilTimed == 0 {
				sent = time.Now()
			}
			ok, err := allow(ctx, key)
			if untilTimed == 0 {
				samples = append(samples, time.Since(sent))
				untilTimed = every
			}
			if err != nil {
				failure := err // err itself must not escape, which would cost each call an allocation
				failed.Store(&failure)
				stop.Store(true)
			}
			asked++
			if !ok {
				denied++
			}
		}
		t.samples, t.Asked, t.Denied = samples, asked, denied // at the end: neighbours share a cache line
	}

	runtime.ReadMemStats(&before)
	start := time.Now()
	for i, w := range walks {
		workers.Go(func() { worker(w, &turns[i]) })
	}
	timer := time.AfterFunc(length, func() { stop.Store(true) })
	workers.Wait()
	timer.Stop()
	sum := turn{Elapsed: time.Since(start)}
	runtime.ReadMemStats(&after)
	sum.Mallocs = after.Mallocs - before.Mallocs

	if err := failed.Load(); err != nil {
		return turn{}, *err
	}
	for _, t := range turns {
		sum.Asked += t.Asked
		sum.Denied += t.Denied
		sum.samples = append(sum.samples, t.samples...)
	}
	sum.summarize()
	return sum, nil
}
