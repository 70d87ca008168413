package redistest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// account is what a Witness knows of a log: what was admitted within the window, and what is in the log.
type account struct {
	name  string
	bound Bound

	within  []*admitted // in the window that ends at the last admission, in the order of admission
	units   int         // of these, less those given back
	charges map[string]*admitted
	totals  Totals

	entries []*entry // in the order of the log, with some that are no longer in it
	gone    int      // how many of the first entries are no longer in it
	byID    map[string]*entry
	marks   map[string]int64 // scores
	extra   int              // the units of the entries in the log beyond one for each
	ended   []*admitted      // whose last entry the current transaction has removed
	touched bool
}

// admitted is one admission.
type admitted struct {
	id      string
	at      int64 // on the server's clock, as if it had never stepped back
	score   int64 // of its entries
	weight  int   // units
	left    int   // units that were not given back
	entries int   // in the log
	out     bool  // whether its window has ended
}

// entry is a member of a log: a whole admission, or a part of one of which some was given back.
type entry struct {
	of     *admitted
	member string
	id     string
	score  int64
	weight int
	in     bool // whether it is in the log
}

func (e *entry) compare(other *entry) int {
	return cmp.Or(cmp.Compare(e.score, other.score), strings.Compare(e.member, other.member))
}

// leave takes an admission out of the window.
func (a *account) leave(of *admitted) {
	of.out = true
	a.units -= of.left
	if of.entries == 0 && a.charges[of.id] == of {
		delete(a.charges, of.id)
	}
}

// split adds an entry for a part of an admission whose entry is removed.
func (a *account) split(e *entry) error {
	of := e.of
	if of == nil || of.score != e.score {
		return fmt.Errorf("%s: %s at %d is not a part of an entry that is removed", a.name, e.id, e.score)
	}
	if a.byID[e.id] != nil {
		return fmt.Errorf("%s: an id added twice: %s", a.name, e.id)
	}
	if of.left += e.weight; of.left >= of.weight {
		return fmt.Errorf("%s: the parts of %s weigh no less than it did", a.name, of.id)
	}
	if !of.out {
		a.units += e.weight
	}
	a.totals.Returned -= e.weight
	a.insert(e)
	return nil
}

// move gives an entry an earlier score.
func (a *account) move(to *entry) error {
	e := a.byID[to.id]
	if e == nil || e.score <= to.score || e.weight != to.weight {
		return fmt.Errorf("%s: %s is put off to %d", a.name, to.member, to.score)
	}
	i, _ := slices.BinarySearchFunc(a.entries[a.gone:], e, (*entry).compare)
	a.entries = slices.Delete(a.entries, a.gone+i, a.gone+i+1)
	e.score, e.of.score = to.score, to.score
	a.insertInOrder(e)
	return nil
}

func (a *account) insert(e *entry) {
	e.in = true
	e.of.entries++
	a.byID[e.id] = e
	a.extra += e.weight - 1
	a.insertInOrder(e)
}

func (a *account) insertInOrder(e *entry) {
	i := len(a.entries)
	for i > a.gone && a.entries[i-1].compare(e) > 0 {
		i--
	}
	a.entries = slices.Insert(a.entries, i, e)
}

// giveBack removes a member because of ZREM.
func (a *account) giveBack(member []byte) {
	if IsMark(string(member)) {
		delete(a.marks, string(member))
		return
	}
	id, weight, _ := parseMember(string(member))
	e := a.byID[id]
	if e == nil || e.weight != weight {
		return
	}
	a.remove(e)
	e.of.left -= weight
	if !e.of.out {
		a.units -= weight
	}
	a.totals.Returned += weight
}

func (a *account) remove(e *entry) {
	e.in = false
	delete(a.byID, e.id)
	a.extra -= e.weight - 1
	if e.of.entries--; e.of.entries == 0 {
		a.ended = append(a.ended, e.of)
	}
}

// removeUpTo removes the entries up to an index.
func (a *account) removeUpTo(end int) {
	for _, e := range a.entries[a.gone:end] {
		if e.in {
			a.remove(e)
		}
	}
	a.gone = end
}

func (a *account) removeByScore(words [][]byte) error {
	last, err := strconv.ParseInt(string(words[1]), 10, 64)
	if from := string(words[0]); err != nil || from != "0" && from != "-inf" {
		return fmt.Errorf("%s: a range that is not everything up to a whole number of microseconds: %q", a.name, words)
	}
	if words[0][0] == '-' {
		for mark, score := range a.marks {
			if score <= last {
				delete(a.marks, mark)
			}
		}
	}
	end := a.gone
	for end < len(a.entries) && a.entries[end].score <= last {
		end++
	}
	a.removeUpTo(end)
	return nil
}

func (a *account) removeByRank(words [][]byte) error {
	first, err1 := strconv.Atoi(string(words[0]))
	last, err2 := strconv.Atoi(string(words[1]))
	// The marks come first in the log, and the script removes only the entries that come next by rank.
	if err1 != nil || err2 != nil || first != len(a.marks) || last < first {
		return fmt.Errorf("%s: a range of ranks that does not begin with the first entry: %q", a.name, words)
	}
	end := a.gone
	for left := last - first + 1; end < len(a.entries) && left > 0; end++ {
		if a.entries[end].in {
			left--
		}
	}
	a.removeUpTo(end)
	return nil
}

// end is called at the end of a transaction. It checks that the mark is the units of the entries beyond one each.
func (a *account) end() error {
	a.touched = false
	for _, of := range a.ended {
		if of.out && of.entries == 0 && a.charges[of.id] == of {
			delete(a.charges, of.id)
		}
	}
	a.ended = a.ended[:0]
	if a.gone > 16 && a.gone > len(a.entries)/2 {
		a.entries, a.gone = slices.Delete(a.entries, 0, a.gone), 0
	}
	if marked := int(-a.marks["*"]); marked != a.extra {
		return fmt.Errorf("%s: the mark stands for %d units and should stand for %d", a.name, marked, a.extra)
	}
	return nil
}

// String lists what was admitted within the window that ends at the last admission.
func (a *account) String() string {
	var text strings.Builder
	units := 0
	for i, of := range a.within {
		units += of.left
		const most = 50 // lines at either end
		if i == most && len(a.within) > 2*most {
			fmt.Fprintf(&text, "  … and %d more\n", len(a.within)-2*most)
		}
		if i < most || i >= len(a.within)-most {
			fmt.Fprintf(&text, "  %d %s weighs %d, %d left, %d in all\n", of.at, of.id, of.weight, of.left, units)
		}
	}
	return text.String()
}
