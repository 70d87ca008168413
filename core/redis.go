package core

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/lua"
)

// redisLogs asks the scripts in Redis. Each call is one EVALSHA, which rueidis sends together with those of other
// goroutines on a few persistent connections.
type redisLogs struct {
	*sender
	decision  *rueidis.Lua
	peeking   *rueidis.Lua
	refunding *rueidis.Lua
	identity  uint64 // in the receipts of what it admits
	prefix    string
	stem      string // of all ids this limiter makes
	ids       atomic.Uint64

	now     func() time.Duration // since some moment, on Go's monotonic clock; what denials are held to
	seed    maphash.Seed
	denials *denials
	flights *flights
}

func newRedisLogs(connection *connection, c config) *redisLogs {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	sender := newSender(connection, c)
	return &redisLogs{
		sender:    sender,
		decision:  rueidis.NewLuaScript(lua.Decide),
		peeking:   rueidis.NewLuaScript(lua.Peek),
		refunding: rueidis.NewLuaScript(lua.Refund),
		identity:  mathrand.Uint64(),
		prefix:    c.prefix,
		stem:      base64.RawURLEncoding.EncodeToString(random[:]),
		now:       sender.now,
		seed:      maphash.MakeSeed(),
		denials:   newDenials(c.denials, c.denialHold),
		flights:   newFlights(),
	}
}

// question is what Redis is asked: whether key is admitted under limits, at a cost. What it takes to ask is cut from one
// text, so that it costs one allocation.
type question struct {
	hash    uint64 // of key
	key     string
	cost    int
	limits  []Limit
	text    string   // the same for the same question only
	logs    []string // the script's KEYS
	numbers []string // and of its ARGV max and window of each log
}

// appendQuestion appends the text of a question: its logs, its numbers and its cost, each with a newline behind it. And it
// appends where each of them ends. No two questions have the same text: the key ends at a brace, and behind it no word
// has a newline.
func (r *redisLogs) appendQuestion(text []byte, ends []int, key string, cost int, limits []Limit) ([]byte, []int) {
	for _, limit := range limits {
		text = appendLogKey(text, r.prefix, key, limit)
		ends = append(ends, len(text))
		text = append(text, '\n')
	}
	for _, limit := range limits {
		text = strconv.AppendInt(text, int64(limit.Max), 10)
		ends = append(ends, len(text))
		text = append(text, '\n')
		text = strconv.AppendInt(text, limit.Window.Microseconds(), 10)
		ends = append(ends, len(text))
		text = append(text, '\n')
	}
	text = strconv.AppendInt(text, int64(cost), 10)
	return append(text, '\n'), ends
}

// appendWords appends the words of a text that end where ends says.
func appendWords(words []string, text string, ends []int) []string {
	start := 0
	for _, end := range ends {
		words = append(words, text[start:end])
		start = end + 1
	}
	return words
}

// appendID appends an id that no other call has.
func (r *redisLogs) appendID(b []byte) []byte {
	return strconv.AppendUint(append(b, r.stem...), r.ids.Add(1), 36)
}

// decide answers from what is known, together with others who ask the same just now, or by a call of its own.
func (r *redisLogs) decide(ctx context.Context, key string, cost int, limits []Limit) (Decision, error) {
	hash := maphash.String(r.seed, key)
	if denied, found := r.denials.find(hash, r.now(), key, cost, limits); found {
		return denied, nil
	}
	b, ends := r.appendQuestion(make([]byte, 0, 256), make([]int, 0, 16), key, cost, limits)
	shard := r.flights.shard(hash)
	shard.mu.Lock()
	f := shard.flying[string(b)]
	if f != nil && f.underWay == mostUnderWay {
		batch, place := f.join(cost)
		shard.mu.Unlock()
		return shard.wait(ctx, r.deadlines.at(r.sender.now()), batch, place, cost, limits)
	}
	all := string(r.appendID(b))
	text, id := all[:len(b)], all[len(b):]
	if f == nil {
		f = &flight{}
		shard.flying[text] = f
	}
	f.underWay++
	shard.mu.Unlock()

	words := appendWords(make([]string, 0, 16), text, ends)
	logs, numbers := words[:len(limits)], words[len(limits):]
	defer func() { // also after a panic in a client of the caller's own
		if batch := shard.next(text); batch != nil {
			// Copies, since the words and the caller's limits would otherwise be allocated for every call.
			q := &question{hash: hash, key: key, cost: cost, text: text}
			q.limits = append(q.limits, limits...)
			q.logs = append(q.logs, logs...)
			q.numbers = append(q.numbers, numbers...)
			go r.goOn(q, shard, batch)
		}
	}()
	reply, err := r.ask(ctx, &question{hash, key, cost, limits, text, logs, numbers}, id, 1)
	if err != nil {
		return Decision{}, err
	}
	d := reply.decision(0, cost, limits)
	if d.Allowed {
		d.receipt = receipt{key: key, id: id, cost: cost}
	}
	return d, nil
}

// goOn asks for one batch after the other, until no one waits.
func (r *redisLogs) goOn(q *question, shard *flightShard, b *batch) {
	for ; b != nil; b = shard.next(q.text) {
		r.answer(q, b)
	}
}

// answer lands a batch with its answer.
func (r *redisLogs) answer(q *question, b *batch) {
	defer close(b.landed)
	defer func() {
		if p := recover(); p != nil { // in a client of the caller's own: here nobody else would catch it
			b.err = unavailable(fmt.Errorf("panic: %v", p))
		}
	}()
	if denied, found := r.denials.find(q.hash, r.now(), q.key, q.cost, q.limits); found {
		b.denied = &denied
		return
	}
	// Not in the name of any of those who wait: each of them leaves when its own context ends.
	b.key, b.id = q.key, string(r.appendID(nil))
	b.reply, b.err = r.ask(context.Background(), q, b.id, b.waiting)
}

// ask calls the decision script for a number of requests, and learns from the reply until when the next would be denied.
func (r *redisLogs) ask(ctx context.Context, q *question, id string, requests int) (reply, error) {
	args := append(append(make([]string, 0, 16), id), q.numbers...)
	if requests > 1 || q.cost > 1 {
		args = append(args, strconv.Itoa(requests), strconv.Itoa(q.cost))
	}
	if r.metrics != nil {
		r.metrics.requests.Record(ctx, int64(requests), answeredCall...)
	}
	forgotten, sent := r.denials.forgotten(q.hash), r.now()
	reply, err := r.call(ctx, r.decision, q.logs, args, requests, q.cost, q.limits)
	if err == nil && reply.logs != nil {
		last := reply.decision(requests-1, q.cost, q.limits)
		r.denials.learn(q.hash, forgotten, sent, r.now(), q.key, q.cost, q.limits, last)
	}
	return reply, err
}

func (r *redisLogs) peek(ctx context.Context, key string, limits []Limit) (Decision, error) {
	text, ends := r.appendQuestion(make([]byte, 0, 256), make([]int, 0, 16), key, 1, limits)
	words := appendWords(make([]string, 0, 16), string(text), ends)
	reply, err := r.call(ctx, r.peeking, words[:len(limits)], words[len(limits):], 1, 1, limits)
	if err != nil {
		return Decision{}, err
	}
	return reply.decision(0, 1, limits), nil
}

// call has a script answer. Asking again under the same id is safe while what was charged is still in every window.
func (r *redisLogs) call(ctx context.Context, script *rueidis.Lua, keys, args []string, requests, cost int, limits []Limit) (reply, error) {
	safe := limits[0].Window
	for _, limit := range limits[1:] {
		safe = min(safe, limit.Window)
	}
	message, err := r.send(ctx, safe, script, keys, args)
	if err != nil {
		return reply{}, unavailable(err)
	}
	decoded, err := decode(message, requests, cost, limits)
	if err != nil {
		return reply{}, unavailable(fmt.Errorf("not a reply of exactlimit's script: %w", err))
	}
	return decoded, nil
}

// refund removes the units of a receipt from the logs of limits.
func (r *redisLogs) refund(ctx context.Context, paid receipt, limits []State) error {
	logs := make([]string, len(limits))
	args := []string{paid.id, strconv.Itoa(paid.first), strconv.Itoa(paid.cost)}
	for i := range limits {
		logs[i] = string(appendLogKey(nil, r.prefix, paid.key, limits[i].Limit))
		args = append(args, strconv.FormatInt(limits[i].Limit.Window.Microseconds(), 10))
	}
	_, err := r.send(ctx, math.MaxInt64, r.refunding, logs, args)
	r.denials.forget(maphash.String(r.seed, paid.key), paid.key) // even after an error: there may be room
	if err != nil {
		return unavailable(err)
	}
	return nil
}

func (r *redisLogs) reset(ctx context.Context, key string, limits []Limit) error {
	names := make([]string, len(limits))
	for i, limit := range limits {
		names[i] = string(appendLogKey(nil, r.prefix, key, limit))
	}
	_, err := r.send(ctx, math.MaxInt64, nil, names, nil)
	r.denials.forget(maphash.String(r.seed, key), key) // even after an error: the logs may be gone
	if err != nil {
		return unavailable(err)
	}
	return nil
}
