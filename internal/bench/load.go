package main

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// walk is the sequence of keys of one goroutine: an order, which it repeats, and where it starts.
type walk struct {
	keys  []string
	order []uint32 // indices, because the garbage collector would scan pointers
	start int
}

// turn is what one contender did in one round.
type turn struct {
	Requests, Denied int
	DeniedBefore     int    // while warming up
	Local            int    // decisions without Redis, if Redis should have decided
	Failed           int    // calls with an error, which only the scenarios named overload allow
	Failure          string // the first of them
	Elapsed          time.Duration
	Mallocs          uint64
	RedisCPU         time.Duration // of all servers
	P50, P99         time.Duration
	Timed            int // the number of timed calls
	Diagnostics      diagnostics

	samples []time.Duration // of the timed calls, sorted
}

func (t turn) perSecond() float64    { return float64(t.Requests) / t.Elapsed.Seconds() }
func (t turn) per(n float64) float64 { return n / float64(max(1, t.Requests)) }

// summarize computes the quantiles from sorted samples.
func (t *turn) summarize() {
	slices.Sort(t.samples)
	t.P50, t.P99, t.Timed = quantile(t.samples, 0.5), quantile(t.samples, 0.99), len(t.samples)
}

// samplesPerTurn is about how many calls of a turn are timed. To time a call takes longer than a cached denial, so not
// all calls are timed.
const samplesPerTurn = 20_000

// run gives a limiter a turn, of which the first fifth is warm-up and does not count.
func run(l *limiter, walks []walk, length time.Duration, addrs []string) (turn, error) {
	warmUp := length / 5
	warm, err := load(l, walks, warmUp, 16)
	if err != nil {
		return turn{}, err
	}
	every := max(1, 4*warm.Requests/samplesPerTurn)
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
	if l.diagnostics != nil && err == nil {
		measured.Diagnostics, err = l.diagnostics()
	}
	return measured, err
}

// load runs one goroutine for each walk, which calls the limiter without a pause, and times every every-th call.
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
		samples, requests, denied, allow := t.samples, 0, 0, l.allow
		if l.each != nil {
			allow = l.each()
		}
		place, untilTimed := w.start%len(w.order), every
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
				failure := err // a copy, because each call would allocate if err escaped
				failed.Store(&failure)
				stop.Store(true)
			}
			requests++
			if !ok {
				denied++
			}
		}
		// only at the end, because neighbors share a cache line
		t.samples, t.Requests, t.Denied = samples, requests, denied
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
		sum.Requests += t.Requests
		sum.Denied += t.Denied
		sum.samples = append(sum.samples, t.samples...)
	}
	sum.summarize()
	return sum, nil
}
