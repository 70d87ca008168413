package core

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// leases renews the entries of a Limiter's admissions under InFlight limits, in Redis, at a third of their lease, until
// the requests end. One goroutine finds those that are due. It runs while there are such admissions. Other goroutines
// ask for the renewals, up to renewsAtOnce for each server, so that a server that hangs delays no renewal on another.
//
// Renewals and releases need no order, because the script renews only entries that exist and have not expired. So an
// admission that has lost its entries, by an outage longer than their leases or by a Reset, is not counted any more.
type leases struct {
	// renew moves entries of a key to the present, in the logs of limits. It reports whether Redis has answered.
	renew func(key string, members []string, limits []Limit) bool
	// server returns a number of the server that has the logs of a key. It may be out of date.
	server  func(key string) int
	now     func() time.Duration
	closing <-chan struct{}

	mu         sync.Mutex
	held       map[leaseID]*lease
	renewals   map[int]*renewals // by server
	running    bool
	closed     bool
	next       time.Duration // when the goroutine will look for leases that are due
	sooner     chan struct{} // has an element if the goroutine must look earlier
	background sync.WaitGroup
}

// renewals is the renewals that are due on one server.
type renewals struct {
	groups  [][]*lease // of leases that one question renews
	workers int        // the goroutines that ask
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
	due      time.Duration // math.MaxInt64 from when it is due until it has been renewed
}

const (
	// renewsAtOnce is how many renewals one server is asked for at once, which is enough to fill the calls in flight.
	renewsAtOnce = 64
	// maxRenewed is the most entries that one question renews.
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

// add adds an admission, which Redis was asked for at askedAt. All limits must be InFlight.
func (l *leases) add(receipt receipt, limits []Limit, askedAt time.Duration) {
	shortest := limits[0].Window
	for _, limit := range limits[1:] {
		shortest = min(shortest, limit.Window)
	}
	interval := shortest / 3
	held := &lease{
		key: receipt.key, member: receipt.entry(), limits: limits, interval: interval, due: askedAt + interval,
	}
	if receipt.cost > 1 {
		held.member += "*" + strconv.Itoa(receipt.cost)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[receipt.lease()] = held
	if !l.running && !l.closed {
		l.running, l.next = true, held.due
		l.background.Go(l.run)
	}
	l.plan(held.due)
}

// plan makes the goroutine look for leases that are due at a time. The caller must hold mu.
func (l *leases) plan(due time.Duration) {
	if due < l.next {
		l.next = due
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

// run has leases renewed that are due, until there are no more leases.
func (l *leases) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, more := l.renewDue()
		if !more {
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

// renewDue has the leases renewed that are due, in groups for one question each, and returns when the next one will be
// due. It includes those that are due soon, so that few calls renew many. It reports whether there are any leases. If
// not, the goroutine must return.
func (l *leases) renewDue() (next time.Duration, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, byKey := l.now(), map[string][][]*lease{} // the groups of a key
	next = math.MaxInt64
	for _, held := range l.held {
		if held.due > now+held.interval/8 {
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
			l.background.Go(func() { l.work(r) })
		}
	}
	l.next, l.running = next, len(l.held) > 0
	return next, l.running
}

// work asks one server for renewals until none are left.
func (l *leases) work(r *renewals) {
	for group := l.take(r); group != nil; group = l.take(r) {
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
			if !renewed { // try again soon
				held.due = failedAt + held.interval/4
			}
			l.plan(held.due)
		}
		l.mu.Unlock()
	}
}

// take takes the next group to renew, or returns nil if the worker must return.
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

// close waits for the goroutine to return. The channel closing must be closed.
func (l *leases) close() {
	l.mu.Lock()
	l.closed = true // so that add does not start the goroutine again
	l.mu.Unlock()
	l.background.Wait()
}
