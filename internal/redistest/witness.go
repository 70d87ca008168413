package redistest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bound is how much may be admitted to a log.
type Bound struct {
	Max    int // units
	Window time.Duration
}

// Witness checks what a server says it did while it does it, and forgets what has left its window, so it can
// follow a server for hours. It is to be given every transaction, as a Follower reads them. Like the recorder
// of Records it knows the format of the logs and shares no code with the script. It is not safe for concurrent
// use.
//
// Whenever something is admitted, the units admitted within the window that ends then, less those given back
// until then, are at most Max. That is counted by what was admitted, not by what the log still holds, and as
// if the server's clock had never stepped back. What requests have cost beyond what they were admitted for
// counts, but is itself not bounded. Nothing is admitted during a ban.
type Witness struct {
	bounds   map[string]Bound // of each log
	accounts map[string]*account
	back     int64 // microseconds by which the clock has been stepped back, in all
	touched  []*account
	worst    Worst
}

// Worst is a window of a log.
type Worst struct {
	Log        string
	Units, Max int
}

// Fuller reports whether a window is nearer to its Max than another one is, or as near to one that is greater.
func (w Worst) Fuller(than Worst) bool {
	difference := w.Units*than.Max - than.Units*w.Max
	return than.Max == 0 || difference > 0 || difference == 0 && w.Max > than.Max
}

// Totals is what has become of all requests of a log.
type Totals struct {
	Admitted int // units
	Added    int // units that requests have cost beyond what they were admitted for
	Returned int // units that were given back
}

// account is one log: what was admitted within the window, and what is in the log.
type account struct {
	name  string
	bound Bound

	within  []*admitted // within the window that ends at the last admission, in the order of admission
	units   int         // of these, less those given back
	charges map[string]*admitted
	totals  Totals

	entries []*entry // in the order of the log; of those that are no longer in it, only some
	gone    int      // how many of the first ones are no longer in it
	byID    map[string]*entry
	marks   map[string]int64 // scores
	extra   int              // the units of the entries in the log beyond one for each
	ended   []*admitted      // of which the transaction has removed the last entry
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
	out     bool  // of the window
}

// entry is a member of a log: a whole admission, or a part of one of which some was given back.
type entry struct {
	of     *admitted
	member string
	id     string
	score  int64
	weight int
	in     bool // the log
}

func (e *entry) compare(other *entry) int {
	return cmp.Or(cmp.Compare(e.score, other.score), strings.Compare(e.member, other.member))
}

// NewWitness returns a Witness of a server that has only these logs, all empty.
func NewWitness(bounds map[string]Bound) *Witness {
	return &Witness{bounds: bounds, accounts: map[string]*account{}}
}

// StepBack tells that all transactions from now on come after a step of the server's clock, back by so much.
func (w *Witness) StepBack(by time.Duration) { w.back += by.Microseconds() }

// Worst returns the window that came nearest to its Max since the last call of Worst.
func (w *Witness) Worst() Worst {
	worst := w.worst
	w.worst = Worst{}
	return worst
}

// Totals returns what has become of all requests of a log until now.
func (w *Witness) Totals(log string) Totals {
	if a := w.accounts[log]; a != nil {
		return a.totals
	}
	return Totals{}
}

// Kept returns how many admissions the Witness remembers.
func (w *Witness) Kept() int {
	n := 0
	for _, a := range w.accounts {
		n += len(a.charges)
	}
	return n
}

// Apply follows a transaction. It returns an error if the transaction has overfilled a window or is not what
// the script may write.
func (w *Witness) Apply(transaction [][][]byte) error {
	for _, words := range transaction {
		if err := w.apply(words); err != nil {
			return err
		}
	}
	for _, a := range w.touched {
		if err := a.end(); err != nil {
			return err
		}
	}
	w.touched = w.touched[:0]
	return nil
}

func (w *Witness) apply(words [][]byte) error {
	switch command := strings.ToUpper(string(words[0])); command {
	case "PEXPIRE", "PEXPIREAT", "SELECT":
		return nil
	case "DEL", "UNLINK":
		for _, log := range words[1:] {
			a, err := w.account(log)
			if err != nil {
				return err
			}
			a.removeUpTo(len(a.entries))
			clear(a.marks)
		}
		return nil
	case "ZADD", "ZREM", "ZREMRANGEBYSCORE", "ZREMRANGEBYRANK":
		if len(words) < 3 {
			break
		}
		a, err := w.account(words[1])
		if err != nil {
			return err
		}
		switch command {
		case "ZADD":
			return w.add(a, words[2:])
		case "ZREM":
			for _, member := range words[2:] {
				a.giveBack(member)
			}
			return nil
		case "ZREMRANGEBYSCORE":
			return a.removeByScore(words[2:])
		default:
			return a.removeByRank(words[2:])
		}
	}
	return fmt.Errorf("%q is nothing that the script writes", words)
}

func (w *Witness) account(log []byte) (*account, error) {
	a := w.accounts[string(log)]
	if a == nil {
		name := string(log)
		bound, known := w.bounds[name]
		if !known {
			return nil, fmt.Errorf("%s is no log", log)
		}
		a = &account{
			name: name, bound: bound,
			charges: map[string]*admitted{}, byID: map[string]*entry{}, marks: map[string]int64{},
		}
		w.accounts[name] = a
	}
	if !a.touched {
		a.touched = true
		w.touched = append(w.touched, a)
	}
	return a, nil
}

func (w *Witness) add(a *account, entries [][]byte) error {
	// After the clock has stepped back, entries in the future are moved.
	again := bytes.EqualFold(entries[0], []byte("XX"))
	if again {
		entries = entries[1:]
	}
	if len(entries)%2 != 0 {
		return fmt.Errorf("%s: ZADD with an option other than XX", a.name)
	}
	for ; len(entries) > 0; entries = entries[2:] {
		score, err := strconv.ParseInt(string(entries[0]), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: the score %s is no whole number of microseconds", a.name, entries[0])
		}
		if score < 0 {
			if !IsMark(string(entries[1])) {
				return fmt.Errorf("%s: %s with a score of %d", a.name, entries[1], score)
			}
			a.marks[string(entries[1])] = score
			continue
		}
		e := &entry{member: string(entries[1]), score: score}
		if e.id, e.weight, err = parseMember(e.member); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if e.of = a.charges[admissionOf(e.id)]; again {
			err = a.move(e)
		} else if admissionOf(e.id) != e.id {
			err = a.split(e)
		} else {
			err = w.admit(a, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// admit adds the entry of an admission.
func (w *Witness) admit(a *account, e *entry) error {
	at := e.score + w.back
	window := a.bound.Window.Microseconds()
	if e.of != nil && at-e.of.at < window {
		return fmt.Errorf("%s: %s was charged at %d and again at %d\n%s", a.name, e.id, e.of.at, at, a)
	}
	if a.byID[e.id] != nil {
		return fmt.Errorf("%s: an id added twice: %s", a.name, e.id)
	}
	for mark, score := range a.marks {
		if strings.HasPrefix(mark, "!") && -score > e.score && !added(e.id) {
			return fmt.Errorf("%s: %s was admitted at %d, during a ban until %d", a.name, e.id, e.score, -score)
		}
	}
	e.of = &admitted{id: e.id, at: at, score: e.score, weight: e.weight, left: e.weight}
	n := 0
	for n < len(a.within) && a.within[n].at <= at-window {
		a.leave(a.within[n])
		n++
	}
	a.within = append(a.within[n:], e.of)
	a.units += e.weight
	a.charges[e.id] = e.of
	a.insert(e)
	if added(e.id) {
		a.totals.Added += e.weight
		return nil
	}
	a.totals.Admitted += e.weight
	if now := (Worst{a.name, a.units, a.bound.Max}); now.Fuller(w.worst) {
		w.worst = now
	}
	if a.units > a.bound.Max {
		return fmt.Errorf("%s: %d units within the %v up to %d, where %d are allowed:\n%s",
			a.name, a.units, a.bound.Window, at, a.bound.Max, a)
	}
	return nil
}

// leave is called for an admission when its window is over.
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
		return fmt.Errorf("%s: %s at %d is no part of an entry that is removed", a.name, e.id, e.score)
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
		return fmt.Errorf("%s: a range that is not all up to a whole number of microseconds: %q", a.name, words)
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
	// The marks come first in the log, and only entries that come next are removed by rank.
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

// end is called at the end of a transaction. What the entries weigh beyond one unit each is what the mark says.
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
			fmt.Fprintf(&text, "  … and so on, %d more\n", len(a.within)-2*most)
		}
		if i < most || i >= len(a.within)-most {
			fmt.Fprintf(&text, "  %d %s weighs %d, %d left, %d in all\n", of.at, of.id, of.weight, of.left, units)
		}
	}
	return text.String()
}
