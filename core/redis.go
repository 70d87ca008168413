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

// redisLogs is the logs in Redis. It decides requests by the denial cache, or by calls of the script.
type redisLogs struct {
	storeID     uint64 // identifies these logs in receipts
	connection  *connection
	dispatcher  *dispatch.Dispatcher[*question]
	denials     *denials
	reporter    *reporter
	leases      *leases
	wakeWaiters func(key string) // called with a key whose units may have been given back
	closing     chan struct{}    // closed by close

	prefix   string        // of the names of the logs
	idPrefix string        // a random text with which all call ids of this process begin
	lastID   atomic.Uint64 // the number of the last call id
	seed     maphash.Seed  // for the hashes of keys
}

// newRedisLogs returns the logs in the Redis of a connection. The metrics may be nil. It calls wakeWaiters with each
// canonical key whose units may have been given back.
func newRedisLogs(connection *connection, c config, m *metrics, wakeWaiters func(key string)) *redisLogs {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	r := &redisLogs{
		storeID:     mathrand.Uint64(),
		connection:  connection,
		denials:     newDenials(c.denials, c.denialTTL),
		reporter:    &reporter{logger: c.logger},
		wakeWaiters: wakeWaiters,
		closing:     make(chan struct{}),
		prefix:      c.prefix,
		idPrefix:    base64.RawURLEncoding.EncodeToString(random[:]),
		seed:        maphash.MakeSeed(),
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
			log := c.prefix + ":{" + hashTag + "}:probe" // not a log: the names of logs end in a window
			return []string{log, log + ":none"}, []string{"probe", "probe"}
		},
		Late: r.handleLate,
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

// newCalls returns a function that returns a new call each time, for use by one goroutine. It allocates calls in
// chunks.
func (r *redisLogs) newCalls() func() *call {
	const chunk = 64
	var calls []call
	return func() *call {
		if len(calls) == 0 {
			var text []byte
			var ends [chunk]int
			for i := range ends {
				text = strconv.AppendUint(append(text, r.idPrefix...), r.lastID.Add(1), 36)
				ends[i] = len(text)
			}
			ids, start := string(text), 0
			calls = make([]call, chunk)
			for i, end := range ends {
				calls[i].id = ids[start:end]
				start = end
			}
		}
		next := &calls[0]
		calls = calls[1:]
		return next
	}
}

// allow sets d from the denial cache, or by asking Redis. If Redis does not decide, allow returns an error and the
// question, which Redis may still grant: see refundUnwanted. Otherwise the question is nil.
func (r *redisLogs) allow(
	ctx context.Context, d *Decision, key string, cost int, limits []Limit, provisional bool,
) (*question, error) {
	hash := maphash.String(r.seed, key)
	now := r.now()
	if cached := r.denials.find(hash, now, key, cost, limits); cached != nil {
		cached.setDecision(d, now)
		return nil, nil
	}
	q := r.newQuestion(admit, key, hash, cost, limits)
	q.provisional = provisional
	var askedAt time.Duration
	if q.inFlight {
		askedAt = r.now()
	}
	if err := r.ask(ctx, q); err != nil {
		return q, err
	}
	*d = q.decision()
	if d.Allowed {
		d.receipt = r.receiptOf(q)
		if q.inFlight {
			r.leases.add(d.receipt, inFlightLimits(limits), askedAt)
		}
	}
	q.free()
	return nil, nil
}

// receiptOf returns the receipt of a request that was granted.
func (r *redisLogs) receiptOf(q *question) receipt {
	return receipt{
		storeID: r.storeID, key: q.key, cost: q.cost,
		call: q.answer.call, question: q.answer.question, granted: int32(q.answer.granted), position: q.position,
	}
}

// ask asks a question and waits for the answer. After an error the question must not be freed, because its answer may
// still come.
func (r *redisLogs) ask(ctx context.Context, q *question) error {
	if err := r.dispatcher.Do(ctx, q); err != nil {
		if !cancelled(ctx) {
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

// logsOf describes the logs of limits for an error. It leaves out the key, because errors are logged.
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
	if err := r.ask(ctx, q); err != nil {
		return Decision{}, err
	}
	d := q.decision()
	q.free()
	return d, nil
}

// settle changes the charge of a request from the cost in its receipt to the given cost. If the request was settled
// before, settle does nothing. But if that attempt returned an error, settle repeats it with the same cost: see
// call.recordCost. None of the limits may be InFlight.
func (r *redisLogs) settle(ctx context.Context, receipt receipt, cost int, limits []Limit) error {
	cost, done := receipt.call.recordCost(receipt, cost)
	if done || cost == receipt.cost {
		return nil
	}
	if err := r.askSettle(ctx, receipt, cost, limits); err != nil {
		return err
	}
	receipt.call.confirm(receipt)
	return nil
}

// askSettle is settle without call.recordCost. The caller must pass the same cost each time.
func (r *redisLogs) askSettle(ctx context.Context, receipt receipt, cost int, limits []Limit) error {
	q := r.newQuestion(settle, receipt.key, maphash.String(r.seed, receipt.key), cost, limits)
	q.receipt = receipt
	return r.askChange(ctx, q)
}

// release removes a request from the logs of InFlight limits, once. If that fails, it keeps trying in the background,
// because the request counts until its lease ends.
func (r *redisLogs) release(ctx context.Context, receipt receipt, limits []Limit) error {
	if !r.leases.end(receipt) {
		return nil
	}
	released := false
	defer func() {
		if !released { // because of an error, or of a panic of the program's logger
			go r.keepRefunding(receipt, limits)
		}
	}()
	err := r.askSettle(ctx, receipt, 0, limits)
	released = err == nil
	return err
}

// renew renews the leases of entries of a key. It reports whether Redis has answered.
func (r *redisLogs) renew(key string, members []string, limits []Limit) bool {
	q := r.newQuestion(renew, key, maphash.String(r.seed, key), 1, limits)
	q.members = members
	if r.ask(context.Background(), q) != nil {
		return false
	}
	q.free()
	return true
}

func (r *redisLogs) reset(ctx context.Context, key string, limits []Limit) error {
	return r.askChange(ctx, r.newQuestion(reset, key, maphash.String(r.seed, key), 1, limits))
}

// askChange asks a question that changes what a key was charged.
func (r *redisLogs) askChange(ctx context.Context, q *question) error {
	hash, key := q.hash, q.key
	err := r.ask(ctx, q)
	r.chargesChanged(hash, key) // even after an error, because Redis may have done it
	return err
}

// chargesChanged invalidates the cached denials of a key, and wakes its callers of Wait. If units were given back,
// there may be room. If more was charged, the times in the cache are too early.
func (r *redisLogs) chargesChanged(hash uint64, key string) {
	r.denials.invalidate(hash, key)
	r.wakeWaiters(key)
}

// handleLate is called when the answer to a question comes after its caller has stopped waiting.
func (r *redisLogs) handleLate(q *question) {
	if q.verb == settle || q.verb == reset {
		r.chargesChanged(q.hash, q.key)
	} else {
		r.refundUnwanted(q)
	}
}

// refundUnwanted refunds a grant that comes too late for its caller. It is called twice for such a question, in either
// order: when Allow has got no decision from Redis, and when the late answer comes. The second call refunds. If the
// failure policy has admitted the request, the charge stays, except under InFlight limits, because the Limiter does not
// renew the lease of such a request.
func (r *redisLogs) refundUnwanted(q *question) {
	if q.unwanted.Add(1) < 2 || q.verb != admit || q.answer.err != nil || int(q.position) >= q.answer.granted {
		return
	}
	limits := q.limits
	if q.refundInFlightOnly {
		limits = inFlightLimits(limits)
	}
	go r.keepRefunding(r.receiptOf(q), limits)
}

// keepRefunding refunds a request, and tries again after each error, because the circuit breaker may still be open when
// a late answer comes. It gives up after about half a minute. The charge then stays until it expires.
func (r *redisLogs) keepRefunding(receipt receipt, limits []Limit) {
	for pause := time.Millisecond; pause < 20*time.Second; pause *= 2 {
		if r.askSettle(context.Background(), receipt, 0, limits) == nil {
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
	openBreakers, outage := r.reporter.measure(now)
	if _, err := r.connection.get(); err != nil {
		openBreakers = 1 // Redis has not answered yet
	}
	outage += r.connection.timeWithoutClient()
	return redisState{denials: r.denials.size(now), openBreakers: openBreakers, outage: outage}
}

// close waits until no call is in flight, but at most a second longer than the timeout. If Redis hangs, the remaining
// calls end when the client gives up.
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
