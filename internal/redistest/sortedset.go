package redistest

import (
	"cmp"
	"slices"
)

// sortedSet is the present content of a log.
type sortedSet struct {
	parts map[string]part  // by id
	marks map[string]int64 // scores
	left  []int            // of each admission of the record, the units that are in the log
	extra int              // the units of the parts beyond one for each
}

func (s *sortedSet) add(id string, p part) {
	s.parts[id] = p
	s.left[p.admission] += p.weight
	s.extra += p.weight - 1
}

func (s *sortedSet) remove(id string, p part) {
	delete(s.parts, id)
	s.left[p.admission] -= p.weight
	s.extra -= p.weight - 1
}

// part is an entry. Most entries are whole admissions. If units are given back, the entry of requests that were
// admitted together is replaced by an entry for each of them, whose ids are the admission's with a colon and a number.
// The id of a request that was charged less than it was admitted for ends in "=".
type part struct {
	admission int   // index in the record
	at        int64 // the score, which is the admission's unless the clock stepped back
	weight    int
}

// member is a member of a sorted set.
type member struct {
	score int64
	text  string
}

// members returns all members, in their order.
func (s *sortedSet) members() (all []member) {
	for id, p := range s.parts {
		all = append(all, member{p.at, memberOf(id, p.weight)})
	}
	for mark, score := range s.marks {
		all = append(all, member{score, mark})
	}
	slices.SortFunc(all, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.text, b.text))
	})
	return all
}
