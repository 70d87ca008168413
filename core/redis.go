package core

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/exactlimit/exactlimit/internal/dispatch"
	"github.com/exactlimit/exactlimit/lua"
)

// redisLogs is the logs in Redis. It decides from the denial cache, or by asking the script.
type redisLogs struct {
	identity   uint64 // receipt.store of the requests that it admits
	connection *connection
	dispatcher *dispatch.Dispatcher[*question]
	denials    *denials
	reporter   *reporter
	leases     *leases
	freed      func(key string) // called when units of a key may have been given back
	closing    chan struct{}    // closed by close

	prefix string        // of the names of the logs
	stem   string        // random; every call id begins with it
	ids    atomic.Uint64 // how many call ids there are
	seed   maphash.Seed  // of the hashes of keys
}

// newRedisLogs returns the logs in the Redis of a connection. The metrics may be nil. It calls freed with a canonical
// key after units of the key may have been given back.
func newRedisLogs(connection *connection, c config, m *metrics, freed func(key string)) *redisLogs {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	r := &redisLogs{
		identity:   mathrand.Uint64(),
		connection: connection,
		denials:    newDenials(c.denials, c.denialHold),
		reporter:   &reporter{log: c.log},
		freed:      freed,
		closing:    make(chan struct{}),
		prefix:     c.prefix,
		stem:       base64.RawURLEncoding.EncodeToString(random[:]),
		seed:       maphash.MakeSeed(),
	}
	config := dispatch.Config[*question]{
		Client:  connection.get,
		Timeout: c.timeout,
		Script:  lua.Decide,
		Batches: func() func() dispatch.Batch[*question] {
			s := newScratch(c.prefix, r.newCalls(), r.denials, r.now)
			return func() dispatch.Batch[*question] { return &batch{scratch: s} }
		},
		Probe: func(hashTag string) (keys, args []string) {
			log := c.prefix + ":{" + hashTag + "}:probe" // no log has this name, since those end in a window
			return []string{log, log + ":none"}, []string{"probe", "probe"}
		},
		Late: r.late,
		Changed: func(from, to dispatch.State, since time.Duration, cause error) {
			r.reporter.changed(from, to, since, r.now(), cause)
		},
	}
	if m != nil {
		config.Called, config.TimedOut = m.recordCall, m.recordTimeout
	}
	r.dispatcher = dispatch.New(config)
	r.leases = newLeases(r.renew, r.dispatcher.Server, r.now, r.closing)
	return r
}

// now returns the time since the dispatcher was made, on Go's monotonic clock.
func (r *redisLogs) now() time.Duration { return r.dispatcher.Now() }

// newCalls returns a function for one goroutine, which returns a new call each time. Calls are allocated many at once.
func (r *redisLogs) newCalls() func() *call {
	const many = 64
	var calls []call
	return func() *call {
		if len(calls) == 0 {
			var text []byte
			var ends [many]int
			for i := range ends {
				text = strconv.AppendUint(append(text, r.stem...), r.ids.Add(1), 36)
				ends[i] = len(text)
			}
			all, start := string(text), 0
			calls = make([]call, many)
			for i, end := range ends {
				calls[i].id = all[start:end]
				start = end
			}
		}
		next := &calls[0]
		calls = calls[1:]
		return next
	}
}

// decide sets d from the denial cache, or by asking Redis. If that fails it returns an error and the question, which
// Redis may still grant: see giveBack. Otherwise it returns no question.
func (r *redisLogs) decide(
	ctx context.Context, d *Decision, key string, cost int, limits []Limit, provisional bool,
) (*question, error) {
	hash := maphash.String(r.seed, key)
	now := r.now()
	if e := r.denials.find(hash, now, key, cost, limits); e != nil {
		e.decide(d, now)
		return nil, nil
	}
	q := r.newQuestion(admit, key, hash, cost, limits)
	q.provisional = provisional
	var asked time.Duration
	if q.inFlight {
		asked = r.now()
	}
	if err := r.do(ctx, q); err != nil {
		return q, err
	}
	*d = q.decision()
	if d.Allowed {
		d.receipt = r.receipt(q)
		if q.inFlight {
			r.leases.hold(d.receipt, inFlight(limits), asked)
		}
	}
	q.free()
	return nil, nil
}

// receipt returns the receipt of a request that was granted.
func (r *redisLogs) receipt(q *question) receipt {
	return receipt{
		store: r.identity, key: q.key, cost: q.cost,
		call: q.answer.call, question: q.answer.number, granted: int32(q.answer.granted), place: q.place,
	}
}

// do asks a question, and returns when it has an answer. After an error the question must not be freed.
func (r *redisLogs) do(ctx context.Context, q *question) error {
	if err := r.dispatcher.Do(ctx, q); err != nil {
		if !gaveUp(ctx) {
			r.reporter.undecided(err, r.now())
		}
		return unavailable(err)
	}
	if err := q.answer.err; err != nil {
		r.reporter.rejected(dispatch.CodeOf(err.Error()), r.now())
		return unavailable(fmt.Errorf("%s: %w", logsOf(q.limits), err))
	}
	return nil
}

// logsOf describes logs for an error. It leaves out their key, since errors are logged.
func logsOf(limits []Limit) string {
	names := make([]string, len(limits))
	for i := range limits {
		names[i] = strconv.Quote(limits[i].Name)
	}
	if len(names) == 1 {
		return "the log of limit " + names[0]
	}
	return "the logs of limits " + strings.Join(names, ", ")
}

func (r *redisLogs) peek(ctx context.Context, key string, limits []Limit) (Decision, error) {
	q := r.newQuestion(peek, key, maphash.String(r.seed, key), 1, limits)
	if err := r.do(ctx, q); err != nil {
		return Decision{}, err
	}
	d := q.decision()
	q.free()
	return d, nil
}

// settle charges to the logs of limits what a request has cost instead of what its receipt says was charged. If it was
// called for the receipt before, it does nothing or, if that call returned an error, repeats it: see call.settle. No limit
// may be of requests in flight.
func (r *redisLogs) settle(ctx context.Context, paid receipt, cost int, limits []Limit) error {
	cost, done := paid.call.settle(paid, cost)
	if done || cost == paid.cost {
		return nil
	}
	if err := r.charge(ctx, paid, cost, limits); err != nil {
		return err
	}
	paid.call.settled(paid)
	return nil
}

// charge is settle without its memory: the caller knows that it is not called with several costs.
func (r *redisLogs) charge(ctx context.Context, paid receipt, cost int, limits []Limit) error {
	q := r.newQuestion(settle, paid.key, maphash.String(r.seed, paid.key), cost, limits)
	q.paid = paid
	return r.change(ctx, q)
}

// release gives back what a request holds in the logs of limits of requests in flight, once. If it fails, it goes on
// trying in the background, since what is held keeps others waiting until its lease ends.
func (r *redisLogs) release(ctx context.Context, paid receipt, limits []Limit) error {
	if !r.leases.end(paid) {
		return nil
	}
	released := false
	defer func() {
		if !released { // an error, or a panic of the program's logger that was to tell of one
			go r.refundLater(paid, limits)
		}
	}()
	err := r.charge(ctx, paid, 0, limits)
	released = err == nil
	return err
}

// renew is what leases needs.
func (r *redisLogs) renew(key string, members []string, limits []Limit) bool {
	q := r.newQuestion(renew, key, maphash.String(r.seed, key), 1, limits)
	q.members = members
	if r.do(context.Background(), q) != nil {
		return false
	}
	q.free()
	return true
}

func (r *redisLogs) reset(ctx context.Context, key string, limits []Limit) error {
	return r.change(ctx, r.newQuestion(reset, key, maphash.String(r.seed, key), 1, limits))
}

// change asks a question that changes what was charged.
func (r *redisLogs) change(ctx context.Context, q *question) error {
	hash, key := q.hash, q.key
	err := r.do(ctx, q)
	r.changed(hash, key) // even after an error, since Redis may have done it
	return err
}

// changed tells the denial cache, and the callers of Wait, that what was charged to a key may have changed. If units
// were given back, there may be room. If more was charged, the times that the cache holds are too early.
func (r *redisLogs) changed(hash uint64, key string) {
	r.denials.forget(hash, key)
	r.freed(key)
}

// late is called when the answer to a question has come and its caller no longer waits for it.
func (r *redisLogs) late(q *question) {
	if q.verb == settle || q.verb == reset {
		r.changed(q.hash, q.key)
	} else {
		r.giveBack(q)
	}
}

// giveBack refunds a late grant that no caller has use for. It is called twice for such a question, in either order:
// when Allow returns an error, and when the answer comes after Allow stopped waiting for it. The second call refunds.
// If the failure policy has admitted the request instead, the charge stays: there is no call for the former, or one that
// has set q.keep, since a request that this limiter does not renew must not be in flight for Redis.
func (r *redisLogs) giveBack(q *question) {
	if q.unwanted.Add(1) < 2 || q.verb != admit || q.answer.err != nil || int(q.place) >= q.answer.granted {
		return
	}
	limits := q.limits
	if q.keep {
		limits = inFlight(limits)
	}
	go r.refundLater(r.receipt(q), limits)
}

// refundLater gives back what was charged, and tries again after each error, since the circuit breaker may still be
// open after a late answer. It gives up after about half a minute; the charge then stays until it expires.
func (r *redisLogs) refundLater(paid receipt, limits []Limit) {
	for pause := time.Millisecond; pause < 20*time.Second; pause *= 2 {
		if r.charge(context.Background(), paid, 0, limits) == nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-r.closing:
			return
		}
	}
}

// state returns what the metrics observe.
func (r *redisLogs) state() redisState {
	now := r.now()
	open, away := r.reporter.measure(now)
	if _, err := r.connection.get(); err != nil {
		open = 1 // Redis has never been reached
	}
	return redisState{denials: r.denials.size(now), open: open, away: away + r.connection.away()}
}

// close returns when no call is in flight, or a second after the timeout. Calls that are then in flight, to a Redis
// that hangs, end when the client gives them up.
func (r *redisLogs) close() {
	close(r.closing)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.dispatcher.Close()
		r.leases.close()
		r.connection.close()
	}()
	select {
	case <-closed:
	case <-time.After(r.dispatcher.Timeout + time.Second):
	}
}
