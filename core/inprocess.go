package core

import (
	"hash/maphash"
	"maps"
	"strings"
	"sync"
	"time"
)

// inProcess keeps logs in memory and answers as the script does. Logs are spread over shards by key, so that all logs of
// one key are under one lock and several limits are decided in one step.
type inProcess struct {
	start  time.Time // of the clock: moments are microseconds since then, on Go's monotonic clock
	seed   maphash.Seed
	shards [64]shard
	stop   chan struct{}
	swept  chan struct{} // closed when the sweeper has ended
}

type shard struct {
	mu   sync.Mutex
	logs map[logID]*log
	_    [48]byte // shards that are locked by different processors share no cache line
}

// logID is what the name of a log in Redis is made of.
type logID struct {
	key, name string
	window    time.Duration
}

// sweepEvery is the pause between two shards. Each is swept every 16 s, for as long as it takes to look at its logs once.
const sweepEvery = 250 * time.Millisecond

func newInProcess() *inProcess {
	p := &inProcess{
		start: time.Now(),
		seed:  maphash.MakeSeed(),
		stop:  make(chan struct{}),
		swept: make(chan struct{}),
	}
	for i := range p.shards {
		p.shards[i].logs = make(map[logID]*log)
	}
	go p.sweep()
	return p
}

func (p *inProcess) close() {
	close(p.stop)
	<-p.swept
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.logs = make(map[logID]*log)
		s.mu.Unlock()
	}
}

// sweep drops idle logs, one shard after the other, until close.
func (p *inProcess) sweep() {
	defer close(p.swept)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			s := &p.shards[i%len(p.shards)]
			s.mu.Lock()
			s.dropIdle(p.now())
			s.mu.Unlock()
		}
	}
}

func (p *inProcess) now() int64 { return time.Since(p.start).Microseconds() }

func (p *inProcess) shard(key string) *shard {
	return &p.shards[maphash.String(p.seed, key)%uint64(len(p.shards))]
}

func (p *inProcess) decide(key string, cost int, limits []Limit) Decision {
	s := p.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decide(p.now(), key, cost, limits) // the clock is read under the lock, so that no log ever runs backwards
}

func (p *inProcess) peek(key string, limits []Limit) Decision {
	s := p.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peek(p.now(), key, limits)
}

func (p *inProcess) reset(key string, limits []Limit) {
	s := p.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset(key, limits)
}

// decide is the decision script, at a moment that the caller gives.
func (s *shard) decide(now int64, key string, cost int, limits []Limit) Decision {
	var few [4]*log
	logs, allowed := s.count(few[:0], now, key, cost, limits)
	if allowed {
		for i, limit := range limits {
			if logs[i] == nil {
				logs[i] = new(log)
				// A clone, since a key that was cut from a request would keep all of the request in memory.
				s.logs[logID{strings.Clone(key), limit.Name, limit.Window}] = logs[i]
			}
			logs[i].add(now, cost, limit.Max)
		}
	}
	return decision(allowed, now, cost, limits, logs)
}

// peek is the peek script, at a moment that the caller gives.
func (s *shard) peek(now int64, key string, limits []Limit) Decision {
	var few [4]*log
	logs, allowed := s.count(few[:0], now, key, 1, limits)
	return decision(allowed, now, 1, limits, logs)
}

// count appends the log of each limit, nil where there is none, and says whether all of them have room for cost units.
func (s *shard) count(logs []*log, now int64, key string, cost int, limits []Limit) (_ []*log, room bool) {
	room = true
	for _, limit := range limits {
		l := s.logs[logID{key, limit.Name, limit.Window}]
		if l.trim(now-limit.Window.Microseconds()) > limit.Max-cost {
			room = false
		}
		logs = append(logs, l)
	}
	return logs, room
}

func decision(allowed bool, now int64, cost int, limits []Limit, logs []*log) Decision {
	if len(limits) == 1 {
		return Decision{Allowed: allowed, State: logs[0].state(now, cost, limits[0]), Source: SourceInProcess}
	}
	states := make([]State, len(limits))
	for i, limit := range limits {
		states[i] = logs[i].state(now, cost, limit)
	}
	return decide(allowed, states, SourceInProcess)
}

func (s *shard) reset(key string, limits []Limit) {
	for _, limit := range limits {
		delete(s.logs, logID{key, limit.Name, limit.Window})
	}
}

func (s *shard) dropIdle(now int64) {
	before := len(s.logs)
	for id, l := range s.logs {
		if l.idle(now - id.window.Microseconds()) {
			delete(s.logs, id)
		}
	}
	if len(s.logs) < before/4 {
		s.logs = maps.Collect(maps.All(s.logs)) // a Go map gives no memory back
	}
}
