package core

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// The same load on both stores: 256 goroutines, on ten thousand keys or all on one, never at the limit.
func BenchmarkAllow(b *testing.B) {
	for _, store := range []string{"redis", "in-process"} {
		for _, spread := range []int{10_000, 1} {
			name := map[int]string{10_000: "spread", 1: "hot"}[spread]
			b.Run(store+"/"+name, func(b *testing.B) {
				url := ""
				if store == "redis" {
					url = redistest.Shared(b).URL()
				}
				limiter, err := Connect(url, WithPrefix(redistest.Prefix()))
				if err != nil {
					b.Fatal(err)
				}
				defer limiter.Close()
				benchmarkAllow(b, limiter, keys(spread))
			})
		}
	}
}

func benchmarkAllow(b *testing.B, limiter *Limiter, keys []string) {
	ctx := context.Background()
	// A limiter that does not limit measures nothing.
	for i := range 6 {
		if d, err := limiter.Allow(ctx, "check", PerHour("bench", 5)); err != nil || d.Allowed != (i < 5) {
			b.Fatal(i, d, err)
		}
	}
	limit := Limit{Name: "bench", Max: 100_000_000, Window: time.Second}
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for i := int(next.Add(7919)); pb.Next(); i++ {
			if d, err := limiter.Allow(ctx, keys[i%len(keys)], limit); err != nil || !d.Allowed {
				b.Fatal(d, err)
			}
		}
	})
}

// bare does the five commands and nothing else. It is the most that a script with them can reach.
const bare = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local n = redis.call('ZCARD', KEYS[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], 11000)
return n`

// BenchmarkScript has redis-benchmark call the bare script, and the decision script with one question and with 32, in
// turn, on one server, without Go in between. It reports the medians of its rounds in questions per second, and their
// ratios.
func BenchmarkScript(b *testing.B) {
	if _, err := exec.LookPath("redis-benchmark"); err != nil {
		b.Skip("redis-benchmark is not installed")
	}
	server := redistest.Start(b)
	client := server.Client(b)
	for _, spread := range []int{100_000_000, 1000} {
		b.Run(fmt.Sprint(spread, " keys"), func(b *testing.B) {
			scripts := []struct {
				name, text string
				questions  int
				args       []string
				rates      []float64
			}{
				{name: "bare", text: bare, questions: 1, args: []string{"id__rand_int__", "10000000"}},
				{
					name: "decide", text: lua.Decide, questions: 1,
					args: []string{"id__rand_int__", "one", "1", "1000000", "10000000"},
				},
				{
					name: "decide32", text: lua.Decide, questions: 32,
					args: []string{"id__rand_int__", "one", "32", "1000000", "10000000"},
				},
			}
			for b.Loop() {
				for range 7 {
					for i := range scripts {
						s := &scripts[i]
						sha, err := redistest.Do(b, client, "SCRIPT", "LOAD", s.text).ToString()
						if err != nil {
							b.Fatal(err)
						}
						redistest.Do(b, client, "FLUSHALL")
						s.rates = append(s.rates, questionsPerSecond(b, server, spread, sha, s.questions, s.args))
					}
				}
			}
			median := func(i int) float64 {
				slices.Sort(scripts[i].rates)
				return scripts[i].rates[len(scripts[i].rates)/2]
			}
			for i := range scripts {
				b.ReportMetric(median(i), scripts[i].name+"/s")
				if i > 0 {
					b.ReportMetric(median(i)/median(0), scripts[i].name+"/bare")
				}
			}
		})
	}
}

func questionsPerSecond(
	b *testing.B, server *redistest.Server, spread int, sha string, questions int, args []string,
) float64 {
	_, port, _ := strings.Cut(server.Addr, ":")
	calls := strconv.Itoa(200_000 / questions)
	out, err := exec.Command("redis-benchmark", slices.Concat(
		[]string{"-p", port, "--csv", "-r", strconv.Itoa(spread), "-n", calls, "-c", "20", "-P", "32"},
		[]string{"evalsha", sha, strconv.Itoa(questions)},
		slices.Repeat([]string{"log__rand_int__"}, questions),
		args)...).Output()
	if err != nil {
		b.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Split(lines[len(lines)-1], ",")
	rate, err := strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
	if err != nil {
		b.Fatal(string(out))
	}
	return rate * float64(questions)
}
