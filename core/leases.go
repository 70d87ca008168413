package core

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// leases is the admissions of one Limiter, in Redis, that hold units of limits of requests in flight. It renews them
// until they end, every third of the lease. One goroutine does so, which runs while there are any. It waits for no
// answer: those of each server are awaited by goroutines of their own, so that a server that hangs delays no renewal on
// another.
//
// Renewing and giving back need no order: the script renews no entry that is gone or has expired. So an admission that
// has lost its entries, by an outage that was longer than their leases or by a Reset, holds nothing until it ends.
type leases struct {
	// renew moves entries of a key to the present, in the logs of limits. It reports whether Redis has answered.
	renew func(key string, members []string, limits []Limit) bool
	// server returns a number of the server that has the logs of a key. It may be out of date.
	server  func(key string) int
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
	due    time.Duration // math.MaxInt64 while it is renewed
}

const (
	// renewsAtOnce is how many questions to renew are asked at once, of those that are due together on one server. As
	// many fill the calls in flight.
	renewsAtOnce = 64
	// maxRenewed is how many entries one question renews at most.
	maxRenewed = 64
)

func newLeases(
	renew func(string, []string, []Limit) bool, server func(string) int, now func() time.Duration,
	closing <-chan struct{},
) *leases {
	return &leases{
		renew: renew, server: server, now: now, closing: closing,
		held: map[leaseID]*lease{}, sooner: make(chan struct{}, 1),
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
	if !l.running && !l.closed {
		l.running, l.next = true, held.due
		l.renewing.Go(l.run)
	}
	l.plan(held.due)
}

// plan makes the goroutine look for leases that are due by a time. The leases must be locked.
func (l *leases) plan(due time.Duration) {
	if due < l.next {
		l.next = due
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
		if !some {
			return
		}
		for _, groups := range due {
			l.renewing.Go(func() { l.renewAll(groups) })
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

// due returns the leases that are due, of each server in groups for one question each, and when the next one will be.
// What is due soon is due, so that few calls renew many. What it returns is not due again before renewAll has renewed
// it. It reports whether any are held; if not, the goroutine must end.
func (l *leases) due() (groups map[int][][]*lease, next time.Duration, some bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, byKey := l.now(), map[string][][]*lease{} // the groups of each key
	next = math.MaxInt64
	for _, held := range l.held {
		if held.due > now+held.every/8 {
			next = min(next, held.due)
			continue
		}
		held.due = math.MaxInt64
		of := byKey[held.key]
		i := slices.IndexFunc(of, func(group []*lease) bool {
			return len(group) < maxRenewed && slices.Equal(group[0].limits, held.limits)
		})
		if i >= 0 {
			of[i] = append(of[i], held)
		} else {
			byKey[held.key] = append(of, []*lease{held})
		}
	}
	groups = map[int][][]*lease{}
	for key, of := range byKey {
		server := l.server(key)
		groups[server] = append(groups[server], of...)
	}
	l.next, l.running = next, len(l.held) > 0
	return groups, next, l.running
}

// renewAll renews leases of one server. If it does not answer, they are soon due again.
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
				l.plan(held.due)
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
