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

// denials is the denial cache. It holds which questions Redis would deny, and until when, so that they are denied
// without a call to Redis. In this file a question is a key, the limits and the cost of a request.
//
// The cache is exact: a full log has room when its entries expire and not before, so it is full for every instance
// until then, and a banned log denies until the ban ends. Denials by a log whose units may be given back earlier are
// not cached, nor are those that would begin a ban if Redis was asked; see answer.sure. That leaves two
// cases in which a log has room earlier than the cache says. The first is a Reset, or the first time that units of a
// log are given back. The cache sees those of this Limiter at once, and those of other instances within hold. The
// second is that the clocks disagree, since Redis's was stepped forward or this process was suspended, which Go's
// monotonic clock does not count. That too lasts no longer than hold.
//
// The cache is a table of fixed size. The hash of a key selects a set of four places, which hold the denials of all
// keys with that set. A denial that is overwritten by another costs one call to Redis. Reading takes no lock.
type denials struct {
	hold time.Duration // how long a denial is used at most
	sets []denialSet
	mu   sync.Mutex // held to write
}

// denialSet is the places for the keys that are mapped to it.
type denialSet struct {
	places [4]atomic.Pointer[denial]
	// forgotten counts the calls of forget for keys of this set. A call to Redis that was sent before the last of
	// them is not learned from, since it may have been answered before the log was changed.
	forgotten atomic.Uint64
}

// denial is the denial of one question. It is immutable. Its times are those of redisLogs.now.
type denial struct {
	key    string
	cost   int
	limits []Limit
	until  time.Duration // the question is denied before this time
	heard  time.Duration // when the reply came
	denied Decision      // as of heard
}

// newDenials returns a cache for so many entries, rounded up to whole sets; 0 turns it off.
func newDenials(entries int, hold time.Duration) *denials {
	d := &denials{hold: hold}
	if entries > 0 {
		const places = len(denialSet{}.places)
		d.sets = make([]denialSet, (entries+places-1)/places)
	}
	return d
}

// set returns the set of the keys with a hash, or nil if the cache is off.
func (d *denials) set(hash uint64) *denialSet {
	if len(d.sets) == 0 {
		return nil
	}
	i, _ := bits.Mul64(hash, uint64(len(d.sets)))
	return &d.sets[i]
}

// find returns the denial that Redis would give now, or nil if the cache does not have it. The hash is the key's.
func (d *denials) find(hash uint64, now time.Duration, key string, cost int, limits []Limit) *denial {
	set := d.set(hash)
	if set == nil {
		return nil
	}
	for i := range set.places {
		if e := set.places[i].Load(); e != nil && now < e.until && e.asks(key, cost, limits) {
			return e
		}
	}
	return nil
}

// asks reports whether the denial is of the given question. One with another Max or another cost is not the same,
// although it is about the same logs: they have room for it at another time.
func (e *denial) asks(key string, cost int, limits []Limit) bool {
	return e.cost == cost && e.key == key && slices.Equal(e.limits, limits)
}

// decide sets d to the denial as it is now. It copies once, since decisions are large.
func (e *denial) decide(d *Decision, now time.Duration) {
	*d = e.denied
	d.age = max(0, now-e.heard) // the reply may have come after now was read
	d.RetryAfter, d.ResetAfter = max(0, d.RetryAfter-d.age), max(0, d.ResetAfter-d.age)
}

// learn caches the denial of a question. The call that it follows from was sent at sent, and the reply came now; it is
// sure for so long from the moment at which Redis answered. The hash is the key's, and forgotten is what the method
// forgotten returned before the call.
func (d *denials) learn(
	hash, forgotten uint64, sent, now time.Duration, key string, cost int, limits []Limit, denied Decision,
	sure time.Duration,
) {
	set := d.set(hash)
	if set == nil {
		return
	}
	states := denied.States()
	e := &denial{
		key:    strings.Clone(key), // since key may be a part of something large, such as a request
		cost:   cost,
		limits: slices.Clone(limits),
		until:  sent + believed(min(sure, d.hold)),
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

// place returns where to store a denial: where the previous one of its question is, else at an empty place, else
// where the denial is that ends first.
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

// believed returns how long to wait on this process's clock so that no more than span passes on Redis's clock
// meanwhile. NTP corrects a clock by 500 parts per million at most, and both clocks may be corrected, in opposite
// directions.
func believed(span time.Duration) time.Duration { return span - span/1000 }

// forgotten returns a number to give to learn after a call that is about to be sent. It tells learn whether forget was
// called meanwhile for a key of the same set.
func (d *denials) forgotten(hash uint64) uint64 {
	if set := d.set(hash); set != nil {
		return set.forgotten.Load()
	}
	return 0
}

// forget removes the denials of a key, and keeps learn from caching what calls in flight find out about it.
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

// size returns the number of denials that find can return now.
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
