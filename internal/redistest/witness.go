package redistest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bound is how much a log may hold.
type Bound struct {
	Max    int // units
	Window time.Duration
}

// Witness checks what a server has recorded while the server runs, for hours if need be, since it forgets what is older
// than its window. A Follower reads the transactions, and Apply must be called for each of them. Like the recorder of
// Records, a Witness knows the format of the logs and shares no code with the script. It is not safe for concurrent
// use.
//
// Whenever something is admitted, the units admitted within the window that ends then, less those given back, must be
// at most Max. The Witness counts what was admitted, and not what the log still holds, as if the server's clock had
// never stepped back. What requests have cost beyond their charges counts too, but may itself exceed Max. Nothing may
// be admitted during a ban.
type Witness struct {
	bounds   map[string]Bound // of each log
	accounts map[string]*account
	back     int64 // microseconds by which the clock was stepped back in all
	// The accounts that the current transaction has changed, and the fullest window since the last call of Worst.
	touched []*account
	worst   Worst
}

// Worst is a window of a log.
type Worst struct {
	Log        string
	Units, Max int
}

// Fuller reports whether a window is nearer to its Max than another one, or as near to a greater Max.
func (w Worst) Fuller(than Worst) bool {
	difference := w.Units*than.Max - than.Units*w.Max
	return than.Max == 0 || difference > 0 || difference == 0 && w.Max > than.Max
}

// Totals is the units of all requests of a log.
type Totals struct {
	Admitted int
	Added    int // charged beyond what was admitted
	Returned int // given back
}

// NewWitness returns a Witness of a server that has only these logs, all empty.
func NewWitness(bounds map[string]Bound) *Witness {
	return &Witness{bounds: bounds, accounts: map[string]*account{}}
}

// StepBack tells the Witness that all further transactions come after a step of the server's clock, back by so much.
func (w *Witness) StepBack(by time.Duration) { w.back += by.Microseconds() }

// Worst returns the fullest window since the last call of Worst.
func (w *Witness) Worst() Worst {
	worst := w.worst
	w.worst = Worst{}
	return worst
}

// Totals returns the units of all requests of a log until now.
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
	return fmt.Errorf("the script never writes %q", words)
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
	// After the clock has stepped back, the script moves entries that are in its future.
	again := bytes.EqualFold(entries[0], []byte("XX"))
	if again || bytes.EqualFold(entries[0], []byte("NX")) {
		entries = entries[1:]
	}
	if len(entries)%2 != 0 {
		return fmt.Errorf("%s: ZADD with an option other than XX and NX", a.name)
	}
	for ; len(entries) > 0; entries = entries[2:] {
		score, err := strconv.ParseInt(string(entries[0]), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: the score %s is not a whole number of microseconds", a.name, entries[0])
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
