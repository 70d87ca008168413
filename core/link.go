package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// link is the way to one part of Redis: to all of it, or in Redis Cluster to a range of slots, so that a node that fails
// costs its own keys alone.
//
// It is the circuit breaker, closed while there is no trouble. A call that fails begins trouble, and a probe in a goroutine
// of its own finds out: trouble is over when Redis answers in time, and the link is open, so that calls are turned away at
// once, when Redis leaves the probe without an answer for half a timeout, or refuses it three times. Probes go on until one is
// answered in time.
type link struct {
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
	cause   atomic.Pointer[error]
}

// reason is why calls are turned away.
func (t *trouble) reason() error { return *t.cause.Load() }

// link returns the link over which calls about a log go.
func (s *sender) link(log string) *link {
	if !s.connection.cluster.Load() {
		return &s.links[0]
	}
	return &s.links[slot(log)/(slots/links)]
}

// doubt begins trouble in which calls go on: Redis has not answered one of them in time.
func (s *sender) doubt(l *link, log string, cause error) { s.suspect(l, log, cause, false) }

// lost begins trouble in which calls wait: a connection was lost, or is not there.
func (s *sender) lost(l *link, log string, cause error) { s.suspect(l, log, cause, true) }

func (s *sender) suspect(l *link, log string, cause error, lost bool) {
	if s.closing.Err() != nil {
		return
	}
	fresh := &trouble{log: strings.Clone(log), since: s.now(), settled: make(chan struct{})}
	fresh.cause.Store(&cause)
	fresh.lost.Store(lost)
	for {
		if l.trouble.CompareAndSwap(nil, fresh) {
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
	// refusals is after how many failed probes in a row a link is open.
	refusals = 3
	// maxPause is the longest pause between two probes.
	maxPause = 500 * time.Millisecond
	// probeTimeout is how long a probe waits. Redis may be stopped and go on, and answers what it was asked before.
	probeTimeout = 5 * time.Second
)

// mend probes a link until it works.
func (s *sender) mend(l *link, t *trouble) {
	pause := time.Millisecond
	for failed := 0; ; {
		if t.lost.Load() {
			s.drain(l)
		}
		stranded := l.stranded.Load()
		begun := s.now()
		patience := time.AfterFunc(s.deadlines.timeout/2, func() { s.open(l, t) })
		err := s.ping(t)
		patience.Stop()
		if err == nil {
			// Replies come in order, so those that were waited for no longer have come.
			for range stranded {
				<-s.places
			}
			l.stranded.Add(-stranded)
			if s.now()-begun <= s.deadlines.timeout {
				s.over(l, t)
				if l.stranded.Load() > 0 { // a call has ended meanwhile, and left the matter to this trouble
					s.doubt(l, t.log, t.reason())
				}
				return
			}
			failed, pause = 0, time.Millisecond
		} else {
			t.cause.Store(&err)
			t.lost.Store(true)
			if failed++; failed >= refusals {
				s.open(l, t)
			}
		}
		select {
		case <-s.closing.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2+1)):
			pause = min(2*pause, maxPause)
		}
	}
}

// drain waits for calls that began before a connection was lost, which end at once. One of them that had yet to look for a
// connection would otherwise wait for ours to be made.
func (s *sender) drain(l *link) {
	const atMost, step = 5 * time.Millisecond, 100 * time.Microsecond // calls to other nodes of a cluster go on
	for range atMost / step {
		if int64(len(s.places)) <= l.stranded.Load() {
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
	defer time.AfterFunc(probeTimeout, cancel).Stop()
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
	if l.trouble.Load() != t || t.open.Swap(true) {
		return
	}
	close(t.settled)
	s.outage.begin(t)
}

// over lets calls go again.
func (s *sender) over(l *link, t *trouble) {
	l.trouble.Store(nil)
	if !t.open.Swap(true) { // so that patience, if it ends just now, opens it no more
		close(t.settled)
		return
	}
	s.outage.end(s.now())
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
