package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/exactlimit/exactlimit/internal/oracle"
)

const (
	accuracyMax    = 100
	accuracyWindow = time.Second // a whole one, since httprate-redis keeps windows by the second
	accuracyRuns   = 2
)

// volley is requests that goroutines send at once.
type volley struct {
	at                   time.Duration // since a whole second of the clock
	requests, goroutines int
}

// pattern is an arrival of requests that some way of counting gets wrong.
type pattern struct {
	name      string
	instances int
	volleys   []volley
}

func patterns() []pattern {
	const w, n = accuracyWindow, accuracyMax
	// Whether a window goes by the clock, or begins with the limiter or with the first request, it ends just behind the second.
	// So the second volley fills one window and the third the next. What follows keeps asking while an estimate that is made
	// of the last window fades.
	border := []volley{{w * 2 / 100, 1, 1}, {w * 95 / 100, 2 * n, 16}, {w * 107 / 100, 2 * n, 16}}
	var steady []volley
	for i := range 5 * n {
		steady = append(steady, volley{time.Duration(i) * w / (2 * n), 1, 1})
	}
	for i := range 2 * n * 85 / 100 {
		border = append(border, volley{w*108/100 + time.Duration(i)*w/(2*n), 1, 1})
	}
	burst := []volley{{0, 4 * n, 256}}
	return []pattern{{"border", 1, border}, {"steady", 1, steady}, {"burst", 1, burst}, {"burst at two", 2, burst}}
}

// waits says whether a pattern takes its time, and begins with a second of the clock.
func (p pattern) waits() bool { return len(p.volleys) > 1 }

// accuracy has every contender face every pattern, and returns the most that each let into a window. It is an error if
// exactlimit lets in anything but what was asked for.
func accuracy(contenders, memory []contender, redis *server, progress func(string)) (redisResults, memoryResults []exactness, _ error) {
	onRedis := len(contenders)
	contenders = slices.Concat(contenders, memory)
	results := make([]exactness, len(contenders))
	for i, c := range contenders {
		results[i] = exactness{Contender: c.name, How: c.how, Asked: accuracyMax, Admitted: map[string]int{}}
	}
	for run := range accuracyRuns {
		for j, p := range patterns() {
			admitted, errs := make([]int, len(contenders)), make([]error, len(contenders))
			face := func(i int) {
				s := setup{prefix: fmt.Sprintf("a%d-%d-%d", run, j, i), workers: 256, max: accuracyMax, window: accuracyWindow}
				if i < onRedis {
					s.addrs = []string{redis.addr}
				} else if p.instances > 1 {
					return // memory is one instance's own
				}
				admitted[i], errs[i] = p.face(contenders[i], s)
			}
			if p.waits() { // nobody is busy, so all at the same time
				var waiting sync.WaitGroup
				for i := range contenders {
					waiting.Go(func() { face(i) })
				}
				waiting.Wait()
			} else {
				for i := range contenders {
					face(i)
				}
			}
			for i, c := range contenders {
				if errs[i] != nil {
					return nil, nil, fmt.Errorf("accuracy: %s: %w", c.name, errs[i])
				}
				results[i].Admitted[p.name] = max(results[i].Admitted[p.name], admitted[i])
				results[i].Worst = max(results[i].Worst, admitted[i])
			}
			progress(fmt.Sprintf("accuracy %d/%d %s %v", run+1, accuracyRuns, p.name, admitted))
		}
	}
	for _, r := range results {
		if r.Contender == ours && r.Worst != accuracyMax {
			return nil, nil, fmt.Errorf("accuracy: %s admitted %d, not %d: %v", ours, r.Worst, accuracyMax, r.Admitted)
		}
	}
	return results[:onRedis], results[onRedis:], nil
}

// face sends the requests of a pattern, all of one key, and returns the worst window.
func (p pattern) face(c contender, s setup) (worst int, _ error) {
	start := time.Now()
	if p.waits() {
		start = start.Add(time.Until(start.Truncate(accuracyWindow).Add(accuracyWindow)))
		time.Sleep(time.Until(start))
	}
	limiters := make([]*limiter, p.instances)
	for i := range limiters {
		l, err := c.open(s)
		if err != nil {
			return 0, err
		}
		defer l.close()
		if _, err := l.allow(ctx, s.prefix+"-connect"); err != nil {
			return 0, err
		}
		limiters[i] = l
	}
	var (
		mu       sync.Mutex
		failure  error
		admitted []oracle.Span
		senders  sync.WaitGroup
	)
	for _, v := range p.volleys {
		time.Sleep(v.at - time.Since(start))
		for g := range v.goroutines {
			senders.Go(func() {
				for i := g; i < v.requests; i += v.goroutines {
					sent := time.Since(start)
					ok, err := limiters[g%len(limiters)].allow(ctx, s.prefix)
					received := time.Since(start)
					mu.Lock()
					if err != nil {
						failure = err
					} else if ok {
						admitted = append(admitted, oracle.Span{From: int64(sent), To: int64(received), Units: 1})
					}
					mu.Unlock()
				}
			})
		}
	}
	senders.Wait()
	worst = oracle.Most(admitted, int64(accuracyWindow))
	for _, l := range limiters {
		if l.decidedLocally() > 0 && worst != accuracyMax && failure == nil {
			failure = fmt.Errorf("%s: %d admitted, not %d, since %d requests were decided without Redis: is the machine too busy?",
				p.name, worst, accuracyMax, l.decidedLocally())
		}
	}
	return worst, failure
}
