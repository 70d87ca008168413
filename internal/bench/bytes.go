package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/core"
)

// footprint is what full logs take, in bytes.
type footprint struct {
	Max                 int
	Redis, InProcess    float64 // the log of one key, with the key
	PerRedis, PerMemory float64 // of it, for each admitted request
	Hot                 bool    // whether many goroutines have filled the log at once, in Redis only
}

// footprints fills logs by asking: one request at a time, as the clients of most services do, and then a large log by
// many goroutines at once, as a hot key's.
func footprints(addrs []string) ([]footprint, error) {
	sizes := []int{10, 100, 128, 1000, 10_000}
	all := make([]footprint, len(sizes))
	for i, n := range sizes { // all of them before there is a client, whose buffers would be freed meanwhile
		inProcess, err := bytesInProcess(n)
		if err != nil {
			return nil, err
		}
		all[i] = footprint{Max: n, InProcess: inProcess, PerMemory: inProcess / float64(n)}
	}
	for i, n := range sizes {
		inRedis, err := bytesInRedis(addrs[0], n, 1)
		if err != nil {
			return nil, err
		}
		all[i].Redis, all[i].PerRedis = inRedis, inRedis/float64(n)
	}
	hot, err := bytesInRedis(addrs[0], hotMax, 256)
	return append(all, footprint{Max: hotMax, Redis: hot, PerRedis: hot / hotMax, Hot: true}), err
}

const hotMax = 100_000

// fill has goroutines fill a log of n, and sees that it holds n and no more.
func fill(l *core.Limiter, key string, n, goroutines int, by core.Source) error {
	limit := core.Limit{Name: "bench", Max: n, Window: time.Hour}
	var asked atomic.Int64
	var fillers sync.WaitGroup
	errs := make([]error, goroutines)
	for i := range errs {
		fillers.Go(func() {
			for asked.Add(1) <= int64(n) {
				if d, err := l.Allow(ctx, key, limit); err != nil || !d.Allowed || d.Source != by {
					errs[i] = fmt.Errorf("bytes: a request for a log of %d: allowed %v by %v: %v", n, d.Allowed, d.Source, err)
					return
				}
			}
		})
	}
	fillers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if d, err := l.Peek(ctx, key, limit); err != nil || d.Allowed {
		return fmt.Errorf("bytes: a log of %d is not full: %v", n, err)
	}
	return nil
}

func bytesInRedis(addr string, n, goroutines int) (float64, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	do := func(words ...string) rueidis.RedisResult {
		return client.Do(ctx, client.B().Arbitrary(words...).Build())
	}
	if err := do("FLUSHALL", "SYNC").Error(); err != nil {
		return 0, err
	}
	l, err := core.Connect("redis://"+addr, core.WithTimeout(10*time.Second)) // every request has to be counted in Redis
	if err != nil {
		return 0, err
	}
	defer l.Close()
	if err := fill(l, "user-00042", n, goroutines, core.SourceRedis); err != nil {
		return 0, err
	}
	keys, err := do("KEYS", "*").AsStrSlice()
	if err != nil || len(keys) == 0 {
		return 0, fmt.Errorf("bytes: keys %q: %v", keys, err)
	}
	var sum int64
	for _, key := range keys { // all of them, should a log ever have several
		size, err := do("MEMORY", "USAGE", key, "SAMPLES", "0").AsInt64()
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return float64(sum), nil
}

// bytesInProcess divides what the heap has grown by between enough keys that what else is on it does not matter.
func bytesInProcess(n int) (float64, error) {
	keys := max(20, 500_000/n)
	l, err := core.NewInProcess()
	if err != nil {
		return 0, err
	}
	defer l.Close()
	before := heap()
	for i := range keys {
		if err := fill(l, fmt.Sprintf("user-%06d", i), n, 1, core.SourceInProcess); err != nil {
			return 0, err
		}
	}
	after := heap()
	runtime.KeepAlive(l)
	return float64(after-before) / float64(keys), nil
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
