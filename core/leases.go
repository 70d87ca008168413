package core

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// leases renews the entries of a Limiter's admissions under InFlight limits, in Redis, at a third of their lease, until
// the requests end. One goroutine does this. It runs while there are such admissions.
//
// Renewals and releases need no order, because the script renews only entries that exist and have not expired. So an
// admission that has lost its entries, by an outage longer than their leases or by a Reset, is not counted any more.
type leases struct {
	// renew moves entries of a key to the present, in the logs of limits. It reports whether Redis has answered.
	renew   func(key string, members []string, limits []Limit) bool
	now     func() time.Duration
	closing <-chan struct{}

	mu         sync.Mutex
	held       map[leaseID]*lease
	running    bool
	closed     bool
	next       time.Duration // when the goroutine will look for leases that are due
	sooner     chan struct{} // has an element if the goroutine must look earlier
	background sync.WaitGroup
}

// leaseID identifies an admission, as receipt.entry does.
type leaseID struct {
	call     *call
	question int32
}

// lease is one admission. All of its limits are InFlight.
type lease struct {
	key      string // canonical
	member   string
	limits   []Limit
	interval time.Duration // between renewals
	due      time.Duration
}

const (
	// renewsAtOnce is how many renewals are asked for at once, which is enough to fill the calls in flight.
	renewsAtOnce = 64
	// maxRenewed is the most entries that one question renews.
	maxRenewed = 64
)

func newLeases(
	renew func(string, []string, []Limit) bool, now func() time.Duration, closing <-chan struct{},
) *leases {
	return &leases{
		renew: renew, now: now, closing: closing, held: map[leaseID]*lease{}, sooner: make(chan struct{}, 1),
	}
}

// add adds an admission, which Redis was asked for at askedAt. All limits must be InFlight.
func (l *leases) add(receipt receipt, limits []Limit, askedAt time.Duration) {
	shortest := limits[0].Window
	for _, limit := range limits[1:] {
		shortest = min(shortest, limit.Window)
	}
	interval := shortest / 3
	held := &lease{key: receipt.key, member: receipt.entry(), limits: limits, interval: interval, due: askedAt + interval}
	if receipt.cost > 1 {
		held.member += "*" + strconv.Itoa(receipt.cost)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[receipt.lease()] = held
	switch {
	case l.closed:
	case !l.running:
		l.running, l.next = true, held.due
		l.background.Go(l.run)
	case held.due < l.next:
		l.next = held.due
		select {
		case l.sooner <- struct{}{}:
		default:
		}
	}
}

// end removes an admission, and reports whether it was there.
func (l *leases) end(receipt receipt) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.held[receipt.lease()]
	delete(l.held, receipt.lease())
	return held
}

// run renews leases that are due, until there are no more leases.
func (l *leases) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, next, more := l.due()
		switch {
		case !more:
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

// due returns the leases that are due, in groups for one question each, and when the next one will be due. It includes
// those that are due soon, so that few calls renew many. It reports whether there are any leases. If not, the goroutine
// must return.
func (l *leases) due() (groups [][]*lease, next time.Duration, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, byKey := l.now(), map[string][]int{} // the indexes of a key's groups
	next = math.MaxInt64
	for _, held := range l.held {
		if held.due > now+held.interval/8 {
			next = min(next, held.due)
			continue
		}
		ofKey := byKey[held.key]
		i := len(ofKey) - 1
		for i >= 0 && !(slices.Equal(groups[ofKey[i]][0].limits, held.limits) && len(groups[ofKey[i]]) < maxRenewed) {
			i--
		}
		if i >= 0 {
			groups[ofKey[i]] = append(groups[ofKey[i]], held)
			continue
		}
		byKey[held.key] = append(ofKey, len(groups))
		groups = append(groups, []*lease{held})
	}
	l.next, l.running = next, len(l.held) > 0
	return groups, next, l.running
}

// renewAll renews leases. Those that Redis does not renew are due again soon.
func (l *leases) renewAll(groups [][]*lease) {
	var asking sync.WaitGroup
	sem := make(chan struct{}, renewsAtOnce)
	for _, group := range groups {
		sem <- struct{}{}
		asking.Go(func() {
			members := make([]string, len(group))
			for i, held := range group {
				members[i] = held.member
			}
			askedAt := l.now()
			renewed := l.renew(group[0].key, members, group[0].limits)
			failedAt := l.now()
			l.mu.Lock()
			for _, held := range group {
				held.due = askedAt + held.interval
				if !renewed {
					held.due = failedAt + held.interval/4
				}
			}
			l.mu.Unlock()
			<-sem
		})
	}
	asking.Wait()
}

// close waits for the goroutine to return. The channel closing must be closed.
func (l *leases) close() {
	l.mu.Lock()
	l.closed = true // so that add does not start the goroutine again
	l.mu.Unlock()
	l.background.Wait()
}
