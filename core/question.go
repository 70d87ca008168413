package core

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/exactlimit/exactlimit/internal/dispatch"
)

// verb is what a question asks the script to do.
type verb uint8

const (
	admit verb = iota
	peek
	settle
	renew
	reset
)

// question is what one caller asks about the logs of one key, one log for each limit. A question to admit is also
// called a request. A batch puts requests that ask the same to the script as one question: see batch.
type question struct {
	dispatch.Ticket
	verb        verb
	key         string // canonical
	hash        uint64 // of key
	cost        int    // if verb is settle, what the request has actually cost
	provisional bool   // the caller may give back what it is charged
	limits      []Limit
	inFlight    bool     // one of limits is
	paid        receipt  // of the request to settle, if verb is settle
	members     []string // the entries to renew, if verb is renew

	index    int32 // in batch.asked, of the question to the script that this one is part of
	place    int32 // among the requests that this question to the script stands for; 0 is the first
	answer   answer
	unwanted atomic.Int32 // counts the calls of redisLogs.giveBack
	keep     bool         // giveBack gives back only what limits of requests in flight were charged
}

// decision returns the decision on the request, from the answer.
func (q *question) decision() Decision { return q.answer.decision(int(q.place), q.cost, q.limits) }

// HashTag returns the key, which the names of all its logs have in braces.
func (q *question) HashTag() string { return q.key }

// Size returns how much work the question is for the script, where 1 is a request under one limit. Where units are
// given back, the script may have to make a new entry for each other request that shares the entry, which is why that
// counts for more.
func (q *question) Size() int {
	switch {
	case q.verb == settle && q.cost < q.paid.cost:
		return len(q.limits) * (1 + int(q.paid.granted)/4)
	case q.verb == renew:
		return len(q.limits) * len(q.members)
	}
	return len(q.limits)
}

// charges reports whether the question may add entries to logs.
func (q *question) charges() bool { return q.verb == admit || q.verb == settle && q.cost > q.paid.cost }

// Unwanted reports whether the caller has got an error, and no policy has decided the request instead, or one has
// admitted it and there is a limit of requests in flight: see giveBack.
func (q *question) Unwanted() bool { return q.unwanted.Load() > 0 }

// Alike reports whether both questions are requests that can be one question to the script. Those under a limit of
// requests in flight cannot: each has an entry of its own, to be renewed and given back alone.
func (q *question) Alike(other *question) bool {
	return q.verb == admit && q.hash == other.hash && q.key == other.key && !q.inFlight && q.sameTerms(other)
}

// sameTerms reports whether two questions differ in nothing but their keys and what they settle or renew.
func (q *question) sameTerms(other *question) bool {
	return q.verb == other.verb && q.cost == other.cost && q.provisional == other.provisional &&
		slices.Equal(q.limits, other.limits)
}

// questions holds questions for reuse. A question that failed is not reused, since its answer may still come.
var questions = sync.Pool{New: func() any { return new(question) }}

// newQuestion returns a question about the logs of a canonical key under limits. The hash is the key's.
func (r *redisLogs) newQuestion(verb verb, key string, hash uint64, cost int, limits []Limit) *question {
	q := questions.Get().(*question)
	q.verb, q.key, q.hash, q.cost, q.provisional = verb, key, hash, cost, false
	q.limits = append(q.limits[:0], limits...) // a copy, since the caller may leave before the question is asked
	q.inFlight, q.keep = false, false
	for i := range limits {
		q.inFlight = q.inFlight || limits[i].InFlight
	}
	return q
}

// free makes an answered question available for reuse.
func (q *question) free() {
	q.answer, q.paid, q.members, q.key = answer{}, receipt{}, nil, ""
	questions.Put(q)
}
