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
	asked, denied int
	deniedBefore  int // while warming up
	elapsed       time.Duration
	mallocs       uint64
	samples       []time.Duration // sorted
}

func (t turn) perSecond() float64 { return float64(t.asked) / t.elapsed.Seconds() }
func (t turn) allocs() float64    { return float64(t.mallocs) / float64(t.asked) }

// samplesPerTurn is about how many calls of a turn are timed. Timing all of them would be most of what a cached denial takes.
const samplesPerTurn = 20_000

// run gives a limiter a turn: a fifth of the time to warm up, then the rest, which counts.
func run(l *limiter, walks []walk, length time.Duration) (turn, error) {
	runtime.GC() // what the last contender left is not this one's
	warmUp := length / 5
	warm, err := load(l, walks, warmUp, 16)
	if err != nil {
		return turn{}, err
	}
	every := max(1, 4*warm.asked/samplesPerTurn)
	measured, err := load(l, walks, length-warmUp, every)
	measured.deniedBefore = warm.denied
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
			ok, err := allow(key)
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
		t.samples, t.asked, t.denied = samples, asked, denied // at the end: neighbours share a cache line
	}

	runtime.ReadMemStats(&before)
	start := time.Now()
	for i, w := range walks {
		workers.Go(func() { worker(w, &turns[i]) })
	}
	timer := time.AfterFunc(length, func() { stop.Store(true) })
	workers.Wait()
	timer.Stop()
	sum := turn{elapsed: time.Since(start)}
	runtime.ReadMemStats(&after)
	sum.mallocs = after.Mallocs - before.Mallocs

	if err := failed.Load(); err != nil {
		return turn{}, *err
	}
	for _, t := range turns {
		sum.asked += t.asked
		sum.denied += t.denied
		sum.samples = append(sum.samples, t.samples...)
	}
	slices.Sort(sum.samples)
	return sum, nil
}
