package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// link is the way to one part of Redis: to all of it, or in Redis Cluster to a range of slots, so that a node that fails
// costs its own keys alone.
//
// It is the circuit breaker, closed while there is no trouble. A call that fails begins trouble, and probes in a goroutine of
// their own find out: trouble is over when Redis answers one in time, and when none is answered for half a timeout the link
// is open, so that calls are turned away at once.
type link struct {
	mu       sync.Mutex    // held to open it, and to end its trouble
	places   chan struct{} // taken by calls on their way
	trouble  atomic.Pointer[trouble]
	stranded atomic.Int64 // calls that have ended without their reply, and keep their places
}

// links is how many there are, of 512 slots each.
const links = 32

// trouble is what is going on while a link is not known to work.
type trouble struct {
	log     string        // of the call that failed, to ask about
	since   time.Duration // on the clock of sender.now
	lost    atomic.Bool   // there may be no connection, so calls wait until it is settled
	open    atomic.Bool   // calls are turned away
	settled chan struct{} // closed when the link is open, or the trouble over
	mended  chan struct{} // closed when nobody probes any longer
	cause   atomic.Pointer[error]
}

// reason is why calls are turned away.
func (t *trouble) reason() error { return *t.cause.Load() }

// link returns the link over which calls about a log go.
func (s *sender) link(log string) *link {
	if !s.connection.cluster.Load() {
		return &s.single
	}
	return &s.links[slot(log)/(slots/links)]
}

// doubt begins trouble in which calls go on: Redis has not answered one of them in time.
func (s *sender) doubt(l *link, log string, cause error) { s.suspect(l, log, cause, false) }

// lost begins trouble in which calls wait: a connection was lost, or is not there.
func (s *sender) lost(l *link, log string, cause error) { s.suspect(l, log, cause, true) }

func (s *sender) suspect(l *link, log string, cause error, lost bool) {
	fresh := &trouble{log: strings.Clone(log), since: s.now(), settled: make(chan struct{}), mended: make(chan struct{})}
	fresh.cause.Store(&cause)
	fresh.lost.Store(lost)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return
	}
	for {
		if l.trouble.CompareAndSwap(nil, fresh) {
			s.troubled.Add(1)
			s.probes.Go(func() { s.mend(l, fresh) })
			return
		}
		if t := l.trouble.Load(); t != nil {
			if lost {
				t.lost.Store(true)
			}
			return
		}
	}
}

const (
	// maxPause is the longest pause between two probes.
	maxPause = 500 * time.Millisecond
	// probeTimeout is how long a probe waits. Redis may be stopped and go on, and answers what it was asked before; but a
	// connection that is being made may be one to a server that has been replaced.
	probeTimeout, dialTimeout = 5 * time.Second, time.Second
)

// mend probes a link until it works.
func (s *sender) mend(l *link, t *trouble) {
	defer afterListening(s.deadlines.timeout/2, s.deadlines.timeout, t.mended, func() { s.open(l, t) }).Stop()
	defer close(t.mended)
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		if t.lost.Load() {
			s.drain(l)
		}
		stranded := l.stranded.Load()
		end := s.deadlines.at(s.now())
		err := s.ping(t)
		if err == nil {
			// Replies come in order, so those that were waited for no longer have come.
			for range stranded {
				<-l.places
			}
			l.stranded.Add(-stranded)
			if end.Err() == nil {
				s.over(l, t)
				if l.stranded.Load() > 0 { // a call has ended meanwhile, and left the matter to this trouble
					s.doubt(l, t.log, t.reason())
				}
				return
			}
			s.open(l, t) // it answers, and too late
			pause = time.Millisecond
		} else {
			t.cause.Store(&err)
			t.lost.Store(true)
			s.outage.goesOn(t, s.now())
		}
		select {
		case <-s.closing.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
	}
}

// drain waits for calls that began before a connection was lost, which end at once. One of them that had yet to look for a
// connection would otherwise wait for ours to be made.
func (s *sender) drain(l *link) {
	const atMost, step = 5 * time.Millisecond, 100 * time.Microsecond // a range of slots may be of two nodes
	for range atMost / step {
		if int64(len(l.places)) <= l.stranded.Load() {
			return
		}
		time.Sleep(step)
	}
}

// ping asks Redis about a log in a way that shows all that calls need, the connection, the rights and the script, and
// changes nothing: without a limit the script refuses.
func (s *sender) ping(t *trouble) error {
	client, err := s.connection.get()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.closing) // without a deadline that rueidis sees
	defer cancel()
	timeout := probeTimeout
	if t.lost.Load() {
		timeout = dialTimeout
	}
	defer time.AfterFunc(timeout, cancel).Stop()
	err = s.probe.Exec(ctx, client, []string{t.log}, []string{""}).Error()
	if refused, is := rueidis.IsRedisErr(err); is && strings.Contains(refused.Error(), "exactlimit:") {
		return nil
	}
	if err == nil {
		return errors.New("not a reply of exactlimit's script")
	}
	return err
}

// open turns calls away from now on.
func (s *sender) open(l *link, t *trouble) {
	l.mu.Lock()
	opened := l.trouble.Load() == t && !t.open.Swap(true)
	if opened {
		s.outage.begin(t)
	}
	l.mu.Unlock()
	if opened {
		close(t.settled)
	}
}

// over lets calls go again.
func (s *sender) over(l *link, t *trouble) {
	l.mu.Lock()
	l.trouble.Store(nil)
	s.troubled.Add(-1)
	opened := t.open.Load()
	if opened {
		s.outage.end(s.now())
	}
	l.mu.Unlock()
	if !opened {
		close(t.settled)
	}
}

const slots = 16384

// slot is the slot of a log in Redis Cluster: the CRC-16 (XMODEM) of what is within the first braces.
func slot(log string) int {
	_, key, _ := strings.Cut(log, "{")
	key, _, _ = strings.Cut(key, "}")
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc>>15 == 1
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc % slots)
}
