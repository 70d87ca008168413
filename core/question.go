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
	refund
	reset
)

// question is what one caller asks the script: something about the logs that limits keep of a key.
type question struct {
	dispatch.Ticket
	verb        verb
	key         string // canonical
	hash        uint64 // of key
	cost        int
	provisional bool // what it is charged may be given back
	limits      []Limit
	paid        receipt // of a refund: what is given back

	asked    int32 // see batch
	place    int32 // of the request, among those that ask the same in one call
	answer   answer
	unwanted atomic.Int32 // see redisLogs.giveBack
}

// decision returns the answer to the request.
func (q *question) decision() Decision { return q.answer.decision(int(q.place), q.cost, q.limits) }

// HashTag returns the key, which all logs have in braces.
func (q *question) HashTag() string { return q.key }

// Size returns how much work the question is for the script. A refund may have to make an entry for each request that was
// granted together with the one that is given back.
func (q *question) Size() int {
	if q.verb == refund {
		return len(q.limits) * (1 + int(q.paid.granted)/4)
	}
	return len(q.limits)
}

// Alike reports whether two requests are one question to the script.
func (q *question) Alike(other *question) bool {
	return q.verb == admit && q.hash == other.hash && q.key == other.key && q.sameTerms(other)
}

// sameTerms reports whether two questions differ in nothing but their keys.
func (q *question) sameTerms(other *question) bool {
	return q.verb == other.verb && q.cost == other.cost && q.provisional == other.provisional &&
		slices.Equal(q.limits, other.limits)
}

// questions keeps questions for reuse. A question whose caller has left before the answer came is not reused.
var questions = sync.Pool{New: func() any { return new(question) }}

// newQuestion returns a question about the logs that limits keep of a canonical key.
func (r *redisLogs) newQuestion(verb verb, key string, hash uint64, cost int, limits []Limit) *question {
	q := questions.Get().(*question)
	q.verb, q.key, q.hash, q.cost, q.provisional = verb, key, hash, cost, false
	q.limits = append(q.limits[:0], limits...) // a copy, since the caller may leave before the question is asked
	return q
}

// free lets a question be reused.
func (q *question) free() {
	q.answer, q.paid, q.key = answer{}, receipt{}, ""
	questions.Put(q)
}
