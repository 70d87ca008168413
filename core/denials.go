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

// denials is the denial cache. It stores which requests Redis would deny, and until when, so that they are denied
// without a call to Redis. Two requests are the same if they have the same key, limits and cost.
//
// The cache is exact: a full log stays full for every instance until its oldest entries expire, and a banned log denies
// until the ban ends. Denials by a log whose units may be given back earlier are not cached, nor are denials of
// requests for which Redis would begin a ban: see answer.denialTTL. A log can have room earlier than the cache assumes
// in two cases. In the first, Reset was called, or units of the log were given back for the first time. The cache
// notices this at once if this Limiter did it, and within ttl if another instance did. In the second case the clocks
// disagree, because Redis's clock was stepped forward or this process was suspended, which Go's monotonic clock does
// not count. This lasts no longer than ttl either.
//
// The cache is a set-associative table of fixed size. The hash of a key selects a set of four ways, which hold the
// denials of all keys of that set. A denial that is overwritten by another costs one call to Redis. Reading takes no
// lock.
type denials struct {
	ttl  time.Duration // the longest time for which a denial is used
	sets []denialSet
	mu   sync.Mutex // held to write
}

// denialSet holds the denials of the keys that are mapped to it.
type denialSet struct {
	ways [4]atomic.Pointer[denial]
	// generation counts the calls of invalidate for keys of this set. A denial by a call that was sent in an earlier
	// generation is not stored, because Redis may have answered it before the log was changed.
	generation atomic.Uint64
}

// denial is the denial of one request. It is immutable. Its times are those of redisLogs.now.
type denial struct {
	key        string
	cost       int
	limits     []Limit
	until      time.Duration // the request is denied before this time
	receivedAt time.Duration // when the reply came
	decision   Decision      // as of receivedAt
}

// newDenials returns a cache with room for entries denials, rounded up to whole sets. With 0 it is off.
func newDenials(entries int, ttl time.Duration) *denials {
	d := &denials{ttl: ttl}
	if entries > 0 {
		const ways = len(denialSet{}.ways)
		d.sets = make([]denialSet, (entries+ways-1)/ways)
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

// find returns the denial that Redis would give now, or nil if it is not in the cache. The hash must be that of the
// key.
func (d *denials) find(hash uint64, now time.Duration, key string, cost int, limits []Limit) *denial {
	set := d.set(hash)
	if set == nil {
		return nil
	}
	for i := range set.ways {
		if e := set.ways[i].Load(); e != nil && now < e.until && e.matches(key, cost, limits) {
			return e
		}
	}
	return nil
}

// matches reports whether the denial is of the same request. Requests with another Max or cost are not the same,
// although they use the same logs, because the logs have room for them at other times.
func (e *denial) matches(key string, cost int, limits []Limit) bool {
	return e.cost == cost && e.key == key && slices.Equal(e.limits, limits)
}

// setDecision sets d to the denial as it is now. It copies the decision only once, because it is large.
func (e *denial) setDecision(d *Decision, now time.Duration) {
	*d = e.decision
	d.age = max(0, now-e.receivedAt) // the reply may have come after now was read
	d.RetryAfter, d.ResetAfter = max(0, d.RetryAfter-d.age), max(0, d.ResetAfter-d.age)
}

// store caches the denial of a request, which follows from the reply to a call. The call was sent at sentAt, and the
// reply came at now. The ttl counts from the time at which Redis answered, which is between the two. The hash must be
// that of the key, and generation what the method generation returned before the call.
func (d *denials) store(
	hash, generation uint64, sentAt, now time.Duration, key string, cost int, limits []Limit, decision Decision,
	ttl time.Duration,
) {
	set := d.set(hash)
	if set == nil {
		return
	}
	states := decision.States()
	e := &denial{
		key:        strings.Clone(key), // because key may be a substring of a whole request
		cost:       cost,
		limits:     slices.Clone(limits),
		until:      sentAt + lessDrift(min(ttl, d.ttl)),
		receivedAt: now,
		decision:   Decision{State: states[0], Source: SourceDenialCache},
	}
	if len(limits) > 1 {
		e.decision = newDecision(false, slices.Clone(states), SourceDenialCache)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if set.generation.Load() == generation {
		set.wayFor(e).Store(e)
	}
}

// wayFor returns the way in which to store a denial. It is the way with the previous denial of the same request, or
// else an empty one, or else the way whose denial ends first.
func (s *denialSet) wayFor(e *denial) *atomic.Pointer[denial] {
	way, until := &s.ways[0], time.Duration(math.MaxInt64)
	for i := range s.ways {
		switch other := s.ways[i].Load(); {
		case other == nil:
			way, until = &s.ways[i], 0
		case other.matches(e.key, e.cost, e.limits):
			return &s.ways[i]
		case other.until < until:
			way, until = &s.ways[i], other.until
		}
	}
	return way
}

// lessDrift returns how much time may pass on this process's clock so that at most d passes on Redis's clock. NTP
// corrects a clock by at most 500 parts per million, and it may correct both clocks, in opposite directions.
func lessDrift(d time.Duration) time.Duration { return d - d/1000 }

// generation returns the number to pass to store after a call that is about to be sent. It changes when invalidate is
// called for a key of the same set.
func (d *denials) generation(hash uint64) uint64 {
	if set := d.set(hash); set != nil {
		return set.generation.Load()
	}
	return 0
}

// invalidate removes the denials of a key, and keeps store from caching denials by calls that are in flight.
func (d *denials) invalidate(hash uint64, key string) {
	set := d.set(hash)
	if set == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	set.generation.Add(1)
	for i := range set.ways {
		if e := set.ways[i].Load(); e != nil && e.key == key {
			set.ways[i].Store(nil)
		}
	}
}

// size returns the number of denials that find can return now.
func (d *denials) size(now time.Duration) int {
	n := 0
	for i := range d.sets {
		for j := range d.sets[i].ways {
			if e := d.sets[i].ways[j].Load(); e != nil && now < e.until {
				n++
			}
		}
	}
	return n
}
