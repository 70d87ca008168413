package core

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// leases is the admissions of one Limiter, in Redis, that hold units of limits of requests in flight. It renews them
// until they end, every third of the lease. One goroutine does so, which runs while there are any.
//
// Renewing and giving back need no order: the script renews no entry that is gone or has expired. So an admission that
// has lost its entries, by an outage that was longer than their leases or by a Reset, holds nothing until it ends.
type leases struct {
	// renew moves entries of a key to the present, in the logs of limits. It reports whether Redis has answered.
	renew   func(key string, members []string, limits []Limit) bool
	now     func() time.Duration
	closing <-chan struct{}

	mu       sync.Mutex
	held     map[leaseID]*lease
	running  bool
	closed   bool
	next     time.Duration // when the goroutine looks for leases that are due
	sooner   chan struct{} // has one element if it is to look before that
	renewing sync.WaitGroup
}

// leaseID identifies an admission, as receipt.entry does.
type leaseID struct {
	call     *call
	question int32
}

// lease is one admission. The limits are those of requests in flight.
type lease struct {
	key    string // canonical
	member string
	limits []Limit
	every  time.Duration // how long after one renewal the next is due
	due    time.Duration
}

const (
	// renewsAtOnce is how many questions to renew are asked at once. As many fill the calls in flight.
	renewsAtOnce = 64
	// maxRenewed is how many entries one question renews at most.
	maxRenewed = 64
)

func newLeases(
	renew func(string, []string, []Limit) bool, now func() time.Duration, closing <-chan struct{},
) *leases {
	return &leases{
		renew: renew, now: now, closing: closing, held: map[leaseID]*lease{}, sooner: make(chan struct{}, 1),
	}
}

// hold begins to renew an admission, which was asked for at a time. The limits must be of requests in flight.
func (l *leases) hold(paid receipt, limits []Limit, asked time.Duration) {
	shortest := limits[0].Window
	for _, limit := range limits[1:] {
		shortest = min(shortest, limit.Window)
	}
	held := &lease{key: paid.key, member: paid.entry(), limits: limits, every: shortest / 3, due: asked + shortest/3}
	if paid.cost > 1 {
		held.member += "*" + strconv.Itoa(paid.cost)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[paid.lease()] = held
	switch {
	case l.closed:
	case !l.running:
		l.running, l.next = true, held.due
		l.renewing.Go(l.run)
	case held.due < l.next:
		l.next = held.due
		select {
		case l.sooner <- struct{}{}:
		default:
		}
	}
}

// end stops renewing an admission, and reports whether it had not ended before.
func (l *leases) end(paid receipt) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.held[paid.lease()]
	delete(l.held, paid.lease())
	return held
}

// run renews what is due until nothing is held.
func (l *leases) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, next, some := l.due()
		switch {
		case !some:
			return
		case len(due) > 0:
			l.renewAll(due)
			select {
			case <-l.closing:
				return
			default:
			}
			continue
		}
		timer.Reset(next - l.now())
		select {
		case <-timer.C:
		case <-l.sooner:
		case <-l.closing:
			return
		}
	}
}

// due returns the leases that are due, in groups for one question each, and otherwise when the next one will be. What is
// due soon is due, so that few calls renew many. It reports whether any are held; if not, the goroutine must end.
func (l *leases) due() (groups [][]*lease, next time.Duration, some bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, byKey := l.now(), map[string][]int{} // the indexes of the groups of a key
	next = math.MaxInt64
	for _, held := range l.held {
		if held.due > now+held.every/8 {
			next = min(next, held.due)
			continue
		}
		of := byKey[held.key]
		i := len(of) - 1
		for i >= 0 && !(slices.Equal(groups[of[i]][0].limits, held.limits) && len(groups[of[i]]) < maxRenewed) {
			i--
		}
		if i >= 0 {
			groups[of[i]] = append(groups[of[i]], held)
			continue
		}
		byKey[held.key] = append(of, len(groups))
		groups = append(groups, []*lease{held})
	}
	l.next, l.running = next, len(l.held) > 0
	return groups, next, l.running
}

// renewAll renews leases. Where Redis does not answer, it will soon try again.
func (l *leases) renewAll(groups [][]*lease) {
	var asking sync.WaitGroup
	places := make(chan struct{}, renewsAtOnce)
	for _, group := range groups {
		places <- struct{}{}
		asking.Go(func() {
			members := make([]string, len(group))
			for i, held := range group {
				members[i] = held.member
			}
			asked := l.now()
			renewed := l.renew(group[0].key, members, group[0].limits)
			failed := l.now()
			l.mu.Lock()
			for _, held := range group {
				held.due = asked + held.every
				if !renewed {
					held.due = failed + held.every/4
				}
			}
			l.mu.Unlock()
			<-places
		})
	}
	asking.Wait()
}

// close returns when nothing is renewed any more. The channel closing must be closed.
func (l *leases) close() {
	l.mu.Lock()
	l.closed = true // so that no call of hold starts the goroutine again
	l.mu.Unlock()
	l.renewing.Wait()
}
