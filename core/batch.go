package core

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// batch encodes the questions of one call of the script, and decodes its reply. It is reused: each Encode begins a new
// call.
//
// Equal requests are merged into one question to the script, which grants as many of them as fit, first come, first
// served. Merged questions that differ only in their keys form a group, whose arguments are sent once. The head of
// lua/decide.lua describes the arguments and the reply.
//
// Decode also stores the denials that the reply implies in the denial cache.
type batch struct {
	*scratch

	sentAt         time.Duration
	questions      []*question // the arguments of Encode
	merged         []merged    // the questions to the script
	order          []int32     // indexes in merged, in the order of the call
	keys           []string
	args           []string // args[0] is unused until resendArgs inserts an argument
	call           *call
	shortestWindow time.Duration // the shortest window of the questions that charge
	unanswered     []*question
}

// scratch is memory for Encode. Batches may share it if one goroutine calls Encode of all of them.
type scratch struct {
	prefix  string
	newCall func() *call // returns a new call each time
	denials *denials
	now     func() time.Duration

	byHash   map[uint64]int32 // the index in merged of the last request whose key has this hash
	groups   []group
	names    []byte           // of all logs, concatenated
	nameEnds []int            // where each of the names ends
	texts    map[int64]string // the digits of recently sent numbers
}

func newScratch(prefix string, newCall func() *call, denials *denials, now func() time.Duration) *scratch {
	return &scratch{
		prefix: prefix, newCall: newCall, denials: denials, now: now,
		byHash: map[uint64]int32{}, texts: map[int64]string{},
	}
}

// merged is one question to the script. It stands for the question of one caller, or for equal requests of several.
type merged struct {
	*question         // the first of the requests
	requests   int    // how many requests it stands for
	group      int32  // the index of its group in batch.groups
	previous   int32  // the index in batch.merged of the previous request whose key has the same hash, or -1
	generation uint64 // what denials.generation returned before the call
}

// group is the questions to the script that differ only in their keys.
type group struct {
	merged        // the first of the questions
	questions int // how many questions it has
}

// maxRequests is the most requests that are merged into one question. They share an entry, and to give back units of
// one of them, the script replaces the entry by one for each of the others.
const maxRequests = 250

// Encode returns the keys and arguments of a call that asks the given questions.
func (b *batch) Encode(questions []*question) (keys, args []string) {
	b.questions, b.merged, b.groups, b.order = questions, b.merged[:0], b.groups[:0], b.order[:0]
	clear(b.byHash)
	b.names, b.nameEnds = b.names[:0], b.nameEnds[:0]
	b.sentAt, b.shortestWindow, b.call = b.now(), math.MaxInt64, b.newCall()
	for _, q := range questions {
		b.merge(q)
	}
	for i := range b.merged {
		b.merged[i].group = b.groupOf(&b.merged[i])
	}
	b.keys, b.args = b.keys[:0], append(b.args[:0], "", b.call.id)
	for _, simple := range []bool{true, false} { // the script answers simple groups faster if they come first
		for g := range b.groups {
			if b.groups[g].simple() == simple {
				b.appendGroup(int32(g))
			}
		}
	}
	names, start := string(b.names), 0 // one allocation for all names
	for _, end := range b.nameEnds {
		b.keys = append(b.keys, names[start:end])
		start = end
	}
	return b.keys, b.args[1:]
}

// simple reports whether a question is of the most common kind: it asks to admit requests under one limit without a
// ban, and is not provisional.
func (a *merged) simple() bool {
	return a.verb == admit && len(a.limits) == 1 && !a.provisional && a.limits[0].Ban == 0
}

// single reports whether a question is simple and stands for one request of cost 1. The script has the verb "one" for
// such questions, because most are.
func (a *merged) single() bool { return a.simple() && a.requests == 1 && a.cost == 1 }

// merge merges a caller's question into an equal one, or adds it as a new question to the script.
func (b *batch) merge(q *question) {
	q.position, q.answer = 0, answer{}
	q.mergedIndex = int32(len(b.merged))
	previous := int32(-1)
	if q.verb == admit {
		if n, found := b.byHash[q.hash]; found {
			previous = n
		}
		for n := previous; n >= 0; n = b.merged[n].previous {
			if a := &b.merged[n]; a.requests < maxRequests && q.Alike(a.question) {
				q.mergedIndex, q.position = n, int32(a.requests)
				a.requests++
				return
			}
		}
		b.byHash[q.hash] = q.mergedIndex
	}
	if q.charges() {
		for j := range q.limits {
			b.shortestWindow = min(b.shortestWindow, q.limits[j].Window)
		}
	}
	b.merged = append(b.merged, merged{
		question: q, requests: 1, previous: previous, generation: b.denials.generation(q.hash),
	})
}

// groupOf returns the index of the group of a question. It adds the group if there is none yet.
func (b *batch) groupOf(a *merged) int32 {
	for i := range b.groups {
		g := &b.groups[i]
		if g.requests == a.requests && (g.verb == admit || g.verb == peek) && g.sameTerms(a.question) {
			g.questions++
			return int32(i)
		}
	}
	b.groups = append(b.groups, group{merged: *a, questions: 1})
	return int32(len(b.groups) - 1)
}

// appendGroup appends the names of the logs and the arguments of a group.
func (b *batch) appendGroup(index int32) {
	for i := range b.merged {
		if b.merged[i].group == index {
			b.order = append(b.order, int32(i))
			for j := range b.merged[i].limits {
				b.names = appendLogKey(b.names, b.prefix, b.merged[i].key, b.merged[i].limits[j])
				b.nameEnds = append(b.nameEnds, len(b.names))
			}
		}
	}
	g := &b.groups[index]
	switch {
	case g.single():
		b.appendArgs("one", g.questions)
	case g.verb == admit:
		provisional := 0
		if g.provisional {
			provisional = 1
		}
		b.appendArgs("admit", g.questions, len(g.limits), g.requests, g.cost, provisional)
	case g.verb == peek:
		b.appendArgs("peek", g.questions, len(g.limits))
	case g.verb == settle:
		b.appendArgs("settle", len(g.limits))
		b.appendArgs(g.receipt.entry(), int(g.receipt.granted), int(g.receipt.position), g.receipt.cost, g.cost)
	case g.verb == renew:
		b.appendArgs("renew", len(g.limits), len(g.members))
		b.args = append(b.args, g.members...)
	case g.verb == reset:
		b.appendArgs("reset", len(g.limits))
		return
	}
	for i := range g.limits {
		limit, asks := &g.limits[i], g.verb == admit || g.verb == peek
		if asks {
			b.args = append(b.args, b.text(int64(limit.Max)))
		}
		b.args = append(b.args, b.text(limit.Window.Microseconds()))
		if asks && !g.single() {
			b.args = append(b.args, b.text(limit.Ban.Microseconds()))
		}
	}
}

// text returns the digits of a number. It caches them, because most calls use the same numbers.
func (b *batch) text(n int64) string {
	text, found := b.texts[n]
	if !found {
		if len(b.texts) >= 1000 {
			clear(b.texts)
		}
		text = strconv.FormatInt(n, 10)
		b.texts[n] = text
	}
	return text
}

// appendArgs appends a word and numbers to the arguments.
func (b *batch) appendArgs(word string, numbers ...int) {
	b.args = append(b.args, word)
	for _, n := range numbers {
		b.args = append(b.args, b.text(int64(n)))
	}
}

// Again returns the arguments for sending the call again after it may have been executed.
func (b *batch) Again() []string { return b.resendArgs("again") }

// Known returns the arguments for asking what the call has granted if it was executed, without granting more.
func (b *batch) Known() []string { return b.resendArgs("known") }

// resendArgs returns the arguments with a word inserted after the id of the call.
func (b *batch) resendArgs(word string) []string {
	b.args[0], b.args[1] = b.call.id, word
	return b.args
}

// RetryFor returns for how long after Encode the call may be sent again. The script recognizes an earlier attempt only
// until the entries of that attempt expire. So a call may be sent again for half of the shortest window of the
// questions that charge, and the other half is left for it to arrive. If no question charges, there is no bound.
func (b *batch) RetryFor() time.Duration { return b.shortestWindow / 2 }

// Decode stores the answers in the callers' questions, and returns the questions that the script did not get to.
func (b *batch) Decode(reply []rueidis.RedisMessage) (unanswered []*question, err error) {
	if len(reply) != len(b.order) {
		return nil, errors.New("the numbers of answers and of questions differ")
	}
	b.unanswered = b.unanswered[:0]
	receivedAt := b.now()
	for n, i := range b.order {
		a := &b.merged[i]
		a.answer, err = decode(reply[n], a.requests, a.question)
		a.answer.err, a.answer.call, a.answer.question = err, b.call, int32(n+1)
	}
	for _, q := range b.questions {
		if a := &b.merged[q.mergedIndex]; a.question != q {
			q.answer = a.answer
		}
		if q.answer.unanswered {
			b.unanswered = append(b.unanswered, q)
		}
	}
	for i := range b.merged {
		a := &b.merged[i]
		if a.verb != admit || a.answer.err != nil {
			continue
		}
		if ttl := a.answer.denialTTL(a.limits); ttl > 0 {
			next := a.answer.decision(a.requests, a.cost, a.limits) // on one more request
			b.denials.store(a.hash, a.generation, b.sentAt, receivedAt, a.key, a.cost, a.limits, next, ttl)
		}
	}
	return b.unanswered, nil
}
