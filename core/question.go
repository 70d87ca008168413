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
// called a request. Equal requests are merged into one question to the script: see batch.
type question struct {
	dispatch.Future
	verb        verb
	key         string // canonical
	hash        uint64 // of key
	cost        int    // if verb is settle, the actual cost of the request
	provisional bool   // the caller may give back what it is charged
	limits      []Limit
	inFlight    bool     // one of limits is InFlight
	receipt     receipt  // of the request to settle, if verb is settle
	members     []string // the entries to renew, if verb is renew

	mergedIndex        int32 // the index in batch.merged of the question to the script that includes this one
	position           int32 // among the requests merged into that question, from 0
	answer             answer
	unwanted           atomic.Int32 // counts the calls of redisLogs.refundUnwanted
	refundInFlightOnly bool         // the failure policy has admitted the request
}

// decision returns the decision on the request, from the answer.
func (q *question) decision() Decision { return q.answer.decision(int(q.position), q.cost, q.limits) }

// HashTag returns the key, which is in braces in the names of all its logs.
func (q *question) HashTag() string { return q.key }

// Size returns how much work the question is for the script. A request under one limit has size 1. Giving units back is
// more work, because the script may have to add an entry for each other request that shares the entry.
func (q *question) Size() int {
	switch {
	case q.verb == settle && q.cost < q.receipt.cost:
		return len(q.limits) * (1 + int(q.receipt.granted)/4)
	case q.verb == renew:
		return len(q.limits) * len(q.members)
	}
	return len(q.limits)
}

// charges reports whether the question may add entries to logs.
func (q *question) charges() bool {
	return q.verb == admit || q.verb == settle && q.cost > q.receipt.cost
}

// Unwanted reports whether a late grant would be refunded, in whole or in part: see redisLogs.refundUnwanted.
func (q *question) Unwanted() bool { return q.unwanted.Load() > 0 }

// Alike reports whether both questions are requests that can be merged. Requests under an InFlight limit cannot,
// because each needs its own entry, to be renewed and released separately.
func (q *question) Alike(other *question) bool {
	return q.verb == admit && q.hash == other.hash && q.key == other.key && !q.inFlight && q.sameTerms(other)
}

// sameTerms reports whether two questions differ only in their keys and in what they settle or renew.
func (q *question) sameTerms(other *question) bool {
	return q.verb == other.verb && q.cost == other.cost && q.provisional == other.provisional &&
		slices.Equal(q.limits, other.limits)
}

// questions holds questions for reuse. A question that failed is not reused, because its answer may still come.
var questions = sync.Pool{New: func() any { return new(question) }}

// newQuestion returns a question about the logs of a canonical key under limits. The hash must be that of the key.
func (r *redisLogs) newQuestion(verb verb, key string, hash uint64, cost int, limits []Limit) *question {
	q := questions.Get().(*question)
	q.verb, q.key, q.hash, q.cost, q.provisional = verb, key, hash, cost, false
	q.limits = append(q.limits[:0], limits...) // a copy, because the caller may leave before the question is sent
	q.inFlight, q.refundInFlightOnly = false, false
	for i := range limits {
		q.inFlight = q.inFlight || limits[i].InFlight
	}
	return q
}

// free makes an answered question available for reuse.
func (q *question) free() {
	q.answer, q.receipt, q.members, q.key = answer{}, receipt{}, nil, ""
	questions.Put(q)
}
