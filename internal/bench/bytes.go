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

// footprint is the memory of a full log, in bytes.
type footprint struct {
	Max                 int
	Redis, InProcess    float64 // of the log of one key, including the key
	PerRedis, PerMemory float64 // for each admitted request
	Hot                 bool    // whether many goroutines filled the log at once; only in Redis
}

// footprints fills logs with requests: first one at a time, as most clients of services send them, and then many at
// once into a large log, like that of a hot key.
func footprints(addrs []string) ([]footprint, error) {
	sizes := []int{10, 100, 128, 1000, 10_000}
	all := make([]footprint, len(sizes))
	for i, n := range sizes { // before there is a client, whose buffers could be freed during a measurement
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

// fill fills a log of n requests by goroutines, and checks that it then has no room.
func fill(l *core.Limiter, key string, n, goroutines int, by core.Source) error {
	limit := core.Limit{Name: "bench", Max: n, Window: time.Hour}
	var requests atomic.Int64
	var fillers sync.WaitGroup
	errs := make([]error, goroutines)
	for i := range errs {
		fillers.Go(func() {
			for requests.Add(1) <= int64(n) {
				if d, err := l.Allow(ctx, key, limit); err != nil || !d.Allowed || d.Source != by {
					errs[i] = fmt.Errorf("bytes: a request to a log of %d: allowed is %v, source is %v: %v",
						n, d.Allowed, d.Source, err)
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

// bytesInRedis returns the memory of a log of n requests, filled by goroutines.
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
	l, err := core.Connect("redis://"+addr, core.WithTimeout(10*time.Second)) // all requests must be counted in Redis
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
	for _, key := range keys { // all, in case a log has several
		size, err := do("MEMORY", "USAGE", key, "SAMPLES", "0").AsInt64()
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return float64(sum), nil
}

// bytesInProcess divides the growth of the heap by a number of keys that is so large that other growth does not matter.
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

// heap returns the size of the heap after garbage collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // frees what the finalizers of the first one released
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
