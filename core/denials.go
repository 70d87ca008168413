package core

import (
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// denials remembers which questions Redis would deny, and until when, so that they are answered without it. A question is
// a key with the limits and the cost asked for.
//
// It is exact: a log without room gets room only when entries leave by age, so what is full stays full for every instance
// until then. A log whose units may be given back before is not remembered at all: see answer.full. Apart from that only a
// Reset, or the first Refund of a log, makes room earlier: ours are seen at once, those of other instances within hold. So are
// clocks that do not run alike: Redis's stepped forward, or this process was suspended, in which Go's clock stands still.
//
// It is a table of fixed size, in which a key's denials have few places that they share with other keys'. A denial that
// loses its place costs one call to Redis. Reading takes no lock.
type denials struct {
	hold time.Duration // the longest that a denial is believed
	sets []denialSet
	mu   sync.Mutex // held to write
}

// denialSet has the places of the keys that fall on it.
type denialSet struct {
	places [4]atomic.Pointer[denial]
	// forgotten counts the keys forgotten here. What was asked before the last of them may have been answered from a log
	// that is no more, and is not learnt.
	forgotten atomic.Uint64
}

// denial is what Redis said of one question. It does not change. Moments are those of redisLogs.now.
type denial struct {
	key    string
	cost   int
	limits []Limit
	until  time.Duration // denied before
	heard  time.Duration // when the decision came
	denied Decision      // as it was then
}

func newDenials(entries int, hold time.Duration) *denials {
	d := &denials{hold: hold}
	if entries > 0 {
		const places = len(denialSet{}.places)
		d.sets = make([]denialSet, (entries+places-1)/places)
	}
	return d
}

func (d *denials) set(hash uint64) *denialSet {
	if len(d.sets) == 0 {
		return nil
	}
	i, _ := bits.Mul64(hash, uint64(len(d.sets)))
	return &d.sets[i]
}

// find returns the denial that Redis would give now, if it is known. The hash is the key's.
func (d *denials) find(hash uint64, now time.Duration, key string, cost int, limits []Limit) (_ Decision, found bool) {
	set := d.set(hash)
	if set == nil {
		return Decision{}, false
	}
	for i := range set.places {
		if e := set.places[i].Load(); e != nil && now < e.until && e.asks(key, cost, limits) {
			return e.decision(now), true
		}
	}
	return Decision{}, false
}

// asks says whether the denial is one of the question. Of the same logs, a lower Max or another cost would be denied too,
// but not for the same time, so it is another question.
func (e *denial) asks(key string, cost int, limits []Limit) bool {
	return e.cost == cost && e.key == key && slices.Equal(e.limits, limits)
}

func (e *denial) decision(now time.Duration) Decision {
	d := e.denied
	d.age = max(0, now-e.heard) // it may have come since now was read
	d.State = d.State.aged(d.age)
	return d
}

// learn takes from a decision that came now, to a call made at sent, until when the same question would be denied. It may
// follow from an admission too, of the last units. Forgotten is what forgotten returned before the call.
func (d *denials) learn(hash, forgotten uint64, sent, now time.Duration, key string, cost int, limits []Limit, heard Decision) {
	set := d.set(hash)
	if set == nil || heard.RetryAfter == 0 {
		return
	}
	states, retry := heard.States(), heard.RetryAfter
	for _, state := range states {
		if state.RetryAfter > 0 {
			retry = min(retry, state.RetryAfter) // until then, all that are full stay full
		}
	}
	e := &denial{
		key:    strings.Clone(key), // what it was cut from, such as a request, is not kept
		cost:   cost,
		limits: slices.Clone(limits),
		until:  sent + believed(min(retry, d.hold)),
		heard:  now,
		denied: Decision{State: states[0], Source: SourceDenialCache},
	}
	if len(limits) > 1 {
		e.denied = decide(false, slices.Clone(states), SourceDenialCache)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if set.forgotten.Load() == forgotten {
		set.place(e).Store(e)
	}
}

// place returns where to put a denial: where the last one of its question is, or the one that ends first.
func (s *denialSet) place(e *denial) *atomic.Pointer[denial] {
	place, until := &s.places[0], time.Duration(math.MaxInt64)
	for i := range s.places {
		switch other := s.places[i].Load(); {
		case other == nil:
			place, until = &s.places[i], 0
		case other.asks(e.key, e.cost, e.limits):
			return &s.places[i]
		case other.until < until:
			place, until = &s.places[i], other.until
		}
	}
	return place
}

// believed is how much of a span on Redis's clock has surely not passed when it has on ours: two clocks that NTP steers
// may drift apart by 500 parts per million each.
func believed(span time.Duration) time.Duration { return span - span/1000 }

// forgotten returns what learn needs to know of the time before a call.
func (d *denials) forgotten(hash uint64) uint64 {
	if set := d.set(hash); set != nil {
		return set.forgotten.Load()
	}
	return 0
}

// forget drops what is known of a key, and what calls under way will learn of it.
func (d *denials) forget(hash uint64, key string) {
	set := d.set(hash)
	if set == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	set.forgotten.Add(1)
	for i := range set.places {
		if e := set.places[i].Load(); e != nil && e.key == key {
			set.places[i].Store(nil)
		}
	}
}

// size counts the denials that are believed now.
func (d *denials) size(now time.Duration) int {
	n := 0
	for i := range d.sets {
		for j := range d.sets[i].places {
			if e := d.sets[i].places[j].Load(); e != nil && now < e.until {
				n++
			}
		}
	}
	return n
}
