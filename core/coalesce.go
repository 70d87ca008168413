package core

import (
	"context"
	"slices"
	"sync"
)

// flights lets calls that ask the same question at the same time share round trips. There are no timers: the first two go
// out at once, those that come while both are under way go out together when one of them is back, and so on. So an idle
// limiter adds no latency, and a hot key costs two calls per round trip, however many ask: while Redis works on the one,
// the other is on its way.
//
// The same question means the same logs, Max and cost, so that the requests of a batch differ in nothing but their order.
// Nothing is kept of a question that nobody asks.
type flights [64]flightShard

type flightShard struct {
	mu     sync.Mutex
	flying map[string]*flight // by the text of the question; there while a call is under way
	_      [48]byte           // shards that are locked by different processors share no cache line
}

// flight is a question that is being asked.
type flight struct {
	underWay int      // calls
	waiting  []*batch // in the order in which they go
}

// batch is requests that go together.
type batch struct {
	// places holds the requests as they came. Until the batch goes, a place only says whether its request has left;
	// then it becomes the request's place among those that went.
	places  []int
	waiting int // of places
	gone    bool

	// landed is closed when there is an answer: a reply, a denial of all of them that was known by then, or no decision.
	landed  chan struct{}
	reply   reply
	key, id string
	denied  *Decision
	err     error
}

const left = -1 // of a place whose request waits no longer

const mostUnderWay = 2

// maxBatch is the most units that go together: what Redis does in about a millisecond, in which it answers nobody else.
const maxBatch = 1000

func newFlights() *flights {
	f := new(flights)
	for i := range f {
		f[i].flying = make(map[string]*flight)
	}
	return f
}

func (f *flights) shard(hash uint64) *flightShard { return &f[hash%uint64(len(f))] }

// join takes a place in the last batch that waits. The shard is locked.
func (f *flight) join(cost int) (b *batch, place int) {
	if n := len(f.waiting); n > 0 && (len(f.waiting[n-1].places)+1)*cost <= maxBatch {
		b = f.waiting[n-1]
	} else {
		b = &batch{landed: make(chan struct{})}
		f.waiting = append(f.waiting, b)
	}
	b.places = append(b.places, 0)
	b.waiting++
	return b, len(b.places) - 1
}

// wait returns the decision of a place in a batch when it has come, or leaves the place when the call or its context ends.
// A request that has left is not charged, unless its batch had gone.
func (s *flightShard) wait(ctx context.Context, end *moment, b *batch, place, cost int, limits []Limit) (Decision, error) {
	select {
	case <-b.landed:
	case <-ctx.Done():
		return s.late(ctx, b, place, cost, limits)
	case <-end.Done():
		return s.late(end, b, place, cost, limits)
	}
	return b.decision(place, cost, limits)
}

// late is the decision of a place for which no one waits longer, if it has come just now.
func (s *flightShard) late(ended context.Context, b *batch, place, cost int, limits []Limit) (Decision, error) {
	if s.leave(b, place) {
		return Decision{}, unavailable(ended.Err())
	}
	select {
	case <-b.landed:
		return b.decision(place, cost, limits)
	default:
		return Decision{}, unavailable(ended.Err())
	}
}

// decision is the answer to the request in a place of a batch that has landed.
func (b *batch) decision(place, cost int, limits []Limit) (Decision, error) {
	switch {
	case b.err != nil:
		return Decision{}, b.err
	case b.denied != nil:
		return *b.denied, nil
	}
	d := b.reply.decision(b.places[place], cost, limits)
	if d.Allowed {
		d.receipt = receipt{key: b.key, id: b.id, first: b.places[place] * cost, cost: cost}
	}
	return d, nil
}

// leave gives up a place, unless the batch has gone.
func (s *flightShard) leave(b *batch, place int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.gone {
		return false
	}
	b.places[place] = left
	b.waiting--
	return true
}

// next takes the batch that goes when a call is back, or returns nil when nobody waits.
func (s *flightShard) next(text string) *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	flight := s.flying[text]
	for len(flight.waiting) > 0 {
		b := flight.waiting[0]
		flight.waiting = slices.Delete(flight.waiting, 0, 1)
		if b.waiting > 0 {
			b.goes()
			return b
		}
	}
	if flight.underWay--; flight.underWay == 0 {
		delete(s.flying, text)
	}
	return nil
}

// goes makes the places final.
func (b *batch) goes() {
	b.gone = true
	n := 0
	for i, place := range b.places {
		if place != left {
			b.places[i] = n
			n++
		}
	}
}
