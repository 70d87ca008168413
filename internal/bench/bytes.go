package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// footprint is what full logs take, in bytes.
type footprint struct {
	Max                 int
	Redis, InProcess    float64 // the log of one key, with the key
	PerRedis, PerMemory float64 // of it, for each admitted request
}

// footprints fills logs by asking, one request at a time, as most services do.
func footprints(redis *server, progress func(string)) ([]footprint, error) {
	var all []footprint
	for _, n := range []int{10, 100, 128, 1000, 10_000} {
		inRedis, err := bytesInRedis(redis, n)
		if err != nil {
			return nil, err
		}
		inProcess, err := bytesInProcess(n)
		if err != nil {
			return nil, err
		}
		all = append(all, footprint{n, inRedis, inProcess, inRedis / float64(n), inProcess / float64(n)})
		progress(fmt.Sprintf("bytes %d: %.0f in Redis, %.0f in process", n, inRedis, inProcess))
	}
	return all, nil
}

func fill(l *core.Limiter, key string, n int) error {
	limit := core.Limit{Name: "bench", Max: n, Window: time.Hour}
	for range n {
		if d, err := l.Allow(ctx, key, limit); err != nil || !d.Allowed {
			return fmt.Errorf("bytes: a log of %d is full early: %v", n, err)
		}
	}
	return nil
}

func bytesInRedis(redis *server, n int) (float64, error) {
	if err := redis.flush(); err != nil {
		return 0, err
	}
	l, err := core.Connect("redis://" + redis.addr)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	if err := fill(l, "user-00042", n); err != nil {
		return 0, err
	}
	keys, err := redis.do("KEYS", "*").AsStrSlice()
	if err != nil || len(keys) != 1 {
		return 0, fmt.Errorf("bytes: keys %q: %v", keys, err)
	}
	size, err := redis.do("MEMORY", "USAGE", keys[0], "SAMPLES", "0").AsInt64()
	return float64(size), err
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
		if err := fill(l, fmt.Sprintf("user-%06d", i), n); err != nil {
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
