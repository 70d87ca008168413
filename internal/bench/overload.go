package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	overloadProcesses = 2
	overloadTurns     = 4 // these turns are so many times as long as others, because decisions are few

	// peerDeadline is the deadline of calls to a peer. exactlimit has its own timeout, which is as long.
	peerDeadline = 100 * time.Millisecond
)

// overloadTurn runs processes that together compute more than the machine has processors for.
func overloadTurn(j job, exe string) (turn, error) {
	var children []*child
	for range overloadProcesses {
		c, err := j.start(exe)
		if err != nil {
			return turn{}, err
		}
		defer c.stop()
		children = append(children, c)
	}
	var ready bool
	for _, c := range children {
		if err := c.read(&ready); err != nil {
			return turn{}, err
		}
	}
	busy, err := redisCPU(j.Addrs)
	if err != nil {
		return turn{}, err
	}
	for _, c := range children {
		if err := c.proceed(); err != nil {
			return turn{}, err
		}
	}
	var sum turn
	for _, c := range children {
		var t turn
		if err := c.read(&t); err != nil {
			return turn{}, err
		}
		sum.Requests += t.Requests
		sum.Denied += t.Denied
		sum.Local += t.Local
		sum.Failed += t.Failed
		if t.Failure != "" {
			sum.Failure = t.Failure
		}
		sum.Mallocs += t.Mallocs
		sum.Timed += t.Timed
		sum.Elapsed = max(sum.Elapsed, t.Elapsed)
		// The worse of the processes.
		sum.P50, sum.P99 = max(sum.P50, t.P50), max(sum.P99, t.P99)
		sum.Diagnostics.add(t.Diagnostics)
	}
	after, err := redisCPU(j.Addrs)
	sum.RedisCPU = after - busy
	return sum, err
}

// overloadChild connects, waits until the other processes are ready too, and then overloads the machine.
func overloadChild(l *limiter, walks []walk, j job, in io.Reader, encoder *json.Encoder) (turn, error) {
	if _, err := load(l, walks, 50*time.Millisecond, 1); err != nil {
		return turn{}, err
	}
	if err := encoder.Encode(true); err != nil {
		return turn{}, err
	}
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return turn{}, err
	}
	var (
		stop    atomic.Bool
		failure atomic.Pointer[string]
		workers sync.WaitGroup
		turns   = make([]turn, len(walks))
		before  runtime.MemStats
		after   runtime.MemStats
	)
	local := l.decidedLocally()
	runtime.ReadMemStats(&before)
	start := time.Now()
	for i, w := range walks {
		workers.Go(func() {
			t := &turns[i]
			for place := w.start % len(w.order); !stop.Load(); place = (place + 1) % len(w.order) {
				ctx, cancel := ctx, context.CancelFunc(func() {})
				if !l.ownTimeout {
					ctx, cancel = context.WithTimeout(ctx, peerDeadline)
				}
				sent := time.Now()
				ok, err := l.allow(ctx, w.keys[w.order[place]])
				t.samples = append(t.samples, time.Since(sent))
				cancel()
				t.Requests++
				if err != nil {
					text := err.Error()
					failure.CompareAndSwap(nil, &text)
					t.Failed++
				} else if !ok {
					t.Denied++
				}
				spin(j.Spins)
			}
		})
	}
	timer := time.AfterFunc(j.Length, func() { stop.Store(true) })
	workers.Wait()
	timer.Stop()
	sum := turn{Elapsed: time.Since(start)}
	runtime.ReadMemStats(&after)
	sum.Mallocs = after.Mallocs - before.Mallocs
	for _, t := range turns {
		sum.Requests += t.Requests
		sum.Denied += t.Denied
		sum.Failed += t.Failed
		sum.samples = append(sum.samples, t.samples...)
	}
	if text := failure.Load(); text != nil {
		sum.Failure = *text
	}
	sum.summarize()
	sum.Local = l.decidedLocally() - local
	var err error
	if l.diagnostics != nil {
		sum.Diagnostics, err = l.diagnostics()
	}
	return sum, err
}

// spin computes for n steps. Unlike a wait for the clock, it takes more time if other goroutines use the processor.
func spin(n int64) {
	x := uint64(n)
	for range n {
		x = x*6364136223846793005 + 1442695040888963407
	}
	spun.CompareAndSwap(0, x|1) // so that the compiler does not remove the loop
}

var spun atomic.Uint64

// spinsPerMicrosecond measures how many steps of spin fit into a microsecond. The fastest of several attempts was
// not interrupted.
func spinsPerMicrosecond() int64 {
	const n = 1_000_000
	var took []time.Duration
	for range 20 {
		start := time.Now()
		spin(n)
		took = append(took, time.Since(start))
	}
	return max(1, int64(n*float64(time.Microsecond)/float64(max(1, slices.Min(took)))))
}
