package core

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// leases is the admissions of one Limiter, in Redis, that hold units of limits of requests in flight. It renews them
// until they end, every third of the lease. While there are any, one goroutine looks for those that are due. Others ask
// for the renewals, for each server up to a number of its own, so that a server that hangs delays none on another.
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
	renewals map[int]*renewals // by server
	running  bool
	closed   bool
	next     time.Duration // when the goroutine looks for leases that are due
	sooner   chan struct{} // has one element if it is to look before that
	renewing sync.WaitGroup
}

// renewals is the renewals that are due on one server.
type renewals struct {
	groups  [][]*lease // for one question each
	workers int        // the goroutines that ask
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
	// renewsAtOnce is how many questions to renew one server is asked at once. As many fill the calls in flight.
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
		held: map[leaseID]*lease{}, renewals: map[int]*renewals{}, sooner: make(chan struct{}, 1),
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

// run has what is due renewed until nothing is held.
func (l *leases) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, some := l.renewDue()
		if !some {
			return
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

// renewDue has the leases renewed that are due, in groups for one question each, and returns when the next one will be.
// What is due soon is due, so that few questions renew many. It reports whether any are held; if not, the goroutine must
// end.
func (l *leases) renewDue() (next time.Duration, some bool) {
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
		groups := byKey[held.key]
		i := slices.IndexFunc(groups, func(group []*lease) bool {
			return len(group) < maxRenewed && slices.Equal(group[0].limits, held.limits)
		})
		if i >= 0 {
			groups[i] = append(groups[i], held)
		} else {
			byKey[held.key] = append(groups, []*lease{held})
		}
	}
	for key, groups := range byKey {
		server := l.server(key)
		r := l.renewals[server]
		if r == nil {
			r = &renewals{}
			l.renewals[server] = r
		}
		r.groups = append(r.groups, groups...)
		for range min(len(groups), renewsAtOnce-r.workers) {
			r.workers++
			l.renewing.Go(func() { l.work(r) })
		}
	}
	l.next, l.running = next, len(l.held) > 0
	return next, l.running
}

// work asks for renewals until none are left.
func (l *leases) work(r *renewals) {
	for group := l.take(r); group != nil; group = l.take(r) {
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
			if !renewed { // Redis does not answer: try again soon
				held.due = failed + held.every/4
			}
			l.plan(held.due)
		}
		l.mu.Unlock()
	}
}

// take takes the next group to renew, or returns nil if the worker must end.
func (l *leases) take(r *renewals) (group []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(r.groups) == 0 {
		r.workers--
		return nil
	}
	group, r.groups = r.groups[0], r.groups[1:]
	return group
}

// close returns when nothing is renewed any more. The channel closing must be closed.
func (l *leases) close() {
	l.mu.Lock()
	l.closed = true // so that no call of hold starts the goroutine again
	l.mu.Unlock()
	l.renewing.Wait()
}
