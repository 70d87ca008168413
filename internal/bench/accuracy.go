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
	accuracyWindow = time.Second // a whole second, as httprate-redis needs
	accuracyRuns   = 2
)

// volley is a number of requests that goroutines send at once.
type volley struct {
	at                   time.Duration // since a whole second of the clock
	requests, goroutines int
}

// pattern is a sequence of requests that some algorithms count incorrectly.
type pattern struct {
	name      string
	instances int
	volleys   []volley
}

func patterns() []pattern {
	const w, n = accuracyWindow, accuracyMax
	// Fixed windows end right after the first second, whether they follow the clock or begin with the limiter or the
	// first request. So the second volley fills one window and the third the next. The requests that follow test
	// estimates that are based on the previous window.
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

// timed reports whether a pattern has volleys at certain times, and so begins with a second of the clock.
func (p pattern) timed() bool { return len(p.volleys) > 1 }

// accuracy plays every pattern to every contender, and returns the most that each admitted in a window. If exactlimit
// does not admit exactly the limit, that is an error.
func accuracy(
	contenders, memory []contender, redis *server, progress func(string),
) (redisResults, memoryResults []exactness, _ error) {
	onRedis := len(contenders)
	contenders = slices.Concat(contenders, memory)
	results := make([]exactness, len(contenders))
	for i, c := range contenders {
		results[i] = exactness{Contender: c.name, How: c.how, Limit: accuracyMax, Admitted: map[string]int{}}
	}
	for run := range accuracyRuns {
		for j, p := range patterns() {
			admitted, errs := make([]int, len(contenders)), make([]error, len(contenders))
			play := func(i int) {
				s := setup{prefix: fmt.Sprintf("a%d-%d-%d", run, j, i), workers: 256, max: accuracyMax,
					window: accuracyWindow}
				if i < onRedis {
					s.addrs = []string{redis.addr}
				} else if p.instances > 1 {
					return // instances do not share memory
				}
				admitted[i], errs[i] = p.play(contenders[i], s)
			}
			if p.timed() { // mostly waiting, so all contenders at the same time
				var all sync.WaitGroup
				for i := range contenders {
					all.Go(func() { play(i) })
				}
				all.Wait()
			} else {
				for i := range contenders {
					play(i)
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

// play sends the requests of a pattern, all with one key, and returns the worst window.
func (p pattern) play(c contender, s setup) (worst int, _ error) {
	start := time.Now()
	if p.timed() {
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
			failure = fmt.Errorf("%s: %d admitted, not %d, because %d requests were decided without Redis:"+
				" the machine may be too busy", p.name, worst, accuracyMax, l.decidedLocally())
		}
	}
	return worst, failure
}
