package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// recorder makes a Record from the commands that a server has recorded. It knows the format of the logs, which
// lua/decide.lua documents, and shares no code with the script.
type recorder struct {
	addr   string
	record Record
	bans   map[string][]Ban
	logs   map[string]*sortedSet

	// Of the current transaction:
	touched map[string]bool            // the logs that it has changed
	removed map[string]map[string]part // of each log, the entries that ZREM has removed, by id
}

func newRecorder(addr string) *recorder {
	r := &recorder{addr: addr, record: Record{}, bans: map[string][]Ban{}, logs: map[string]*sortedSet{}}
	r.begin()
	return r
}

func (r *recorder) log(name string) *sortedSet {
	if r.logs[name] == nil {
		r.logs[name] = &sortedSet{parts: map[string]part{}, marks: map[string]int64{}}
	}
	r.touched[name] = true
	return r.logs[name]
}

func (r *recorder) read(from recordFile) error {
	file, err := os.Open(from.name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var transaction [][]string // the commands of a script are between MULTI and EXEC, and count only together
	open := false
	for {
		words, err := readCommand(in)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			// A server that was killed while it wrote the end of the file cuts it off when it starts.
			if from.base {
				return r.end()
			}
			return nil
		}
		if err != nil {
			return err
		}
		words[0] = strings.ToUpper(words[0])
		switch {
		case words[0] == "MULTI":
			open = true
			continue
		case words[0] == "EXEC":
			open = false
		default:
			transaction = append(transaction, words)
		}
		if open {
			continue
		}
		for _, words := range transaction {
			if err := r.apply(words, from.base); err != nil {
				return fmt.Errorf("%w in %q", err, transaction)
			}
		}
		if !from.base { // the commands of a base make a log only together
			if err := r.end(); err != nil {
				return fmt.Errorf("%w after %q", err, transaction)
			}
		}
		transaction = nil
	}
}

func (r *recorder) begin() {
	r.touched, r.removed = map[string]bool{}, map[string]map[string]part{}
}

// end checks the logs that a transaction has changed: the mark of each is the units of its entries beyond one each.
func (r *recorder) end() error {
	for _, name := range slices.Sorted(maps.Keys(r.touched)) {
		log := r.logs[name]
		if marked := int(-log.marks["*"]); marked != log.extra {
			return fmt.Errorf("%s: the mark stands for %d units and should stand for %d", name, marked, log.extra)
		}
	}
	r.begin()
	return nil
}

func (r *recorder) apply(words []string, base bool) error {
	switch words[0] {
	case "ZADD":
		return r.add(words[1], words[2:], base)
	case "ZREM":
		for _, member := range words[2:] {
			r.remove(words[1], member, words[0])
		}
	case "ZREMRANGEBYSCORE":
		return r.removeByScore(words)
	case "ZREMRANGEBYRANK":
		return r.removeByRank(words)
	case "DEL", "UNLINK":
		for _, log := range words[1:] {
			r.removeAll(log, words[0])
		}
	case "SET":
		r.removeAll(words[1], words[0])
	case "FLUSHALL", "FLUSHDB":
		for log := range r.logs {
			r.removeAll(log, words[0])
		}
	case "RESTORE", "RESTORE-ASKING": // the log comes from another server
		entries, err := restored(words[3])
		if err != nil {
			return fmt.Errorf("%s: %w", words[1], err)
		}
		r.removeAll(words[1], words[0])
		return r.add(words[1], entries, true)
	}
	return nil
}

// add adds scores and members to a log. If the log is copied from another one, its entries are what is left of
// admissions.
func (r *recorder) add(name string, entries []string, copied bool) error {
	log := r.log(name)
	again := strings.EqualFold(entries[0], "XX") // entries are moved
	if again || strings.EqualFold(entries[0], "NX") {
		entries = entries[1:]
	}
	if len(entries)%2 != 0 {
		return fmt.Errorf("ZADD with an option other than XX and NX")
	}
	for ; len(entries) > 0; entries = entries[2:] {
		at, err := strconv.ParseInt(entries[0], 10, 64)
		if err != nil {
			return fmt.Errorf("a score that is not a whole number of microseconds")
		}
		member := entries[1]
		id, weight, err := parseMember(member)
		old, there := log.parts[id]
		switch mark := IsMark(member); {
		case err != nil:
			return err
		case mark != (at < 0):
			return fmt.Errorf("%s with a score of %d", member, at)
		case mark:
			log.marks[member] = at
			if err := r.ban(name, member, -at); err != nil {
				return err
			}
		case again:
			if !there || old.at <= at || old.weight != weight {
				return fmt.Errorf("%s stands at %d, and was put off to %d", member, old.at, at)
			}
			old.at = at
			log.parts[id] = old
			r.record[name][old.admission].Moved = at
		case there:
			return fmt.Errorf("an id added twice: %s", member)
		case copied:
			r.copied(name, id, at, weight)
		case admissionOf(id) != id:
			if err := r.split(name, id, at, weight); err != nil {
				return err
			}
		default:
			r.admit(name, id, at, weight)
		}
	}
	return nil
}

// ban records a ban, if a member is the mark of one. The mark of a known ban may be written again.
func (r *recorder) ban(name, member string, ends int64) error {
	text, banned := strings.CutPrefix(member, "!")
	if !banned {
		return nil
	}
	lasts, err := strconv.ParseInt(text, 10, 64)
	if err != nil || lasts < 1 {
		return fmt.Errorf("%s is not the mark of a ban", member)
	}
	ban := Ban{From: ends - lasts, To: ends}
	if !slices.Contains(r.bans[name], ban) {
		r.bans[name] = append(r.bans[name], ban)
	}
	return nil
}

// admit adds an entry for a new admission.
func (r *recorder) admit(name, id string, at int64, weight int) {
	log := r.log(name)
	log.left = append(log.left, 0)
	log.add(id, part{len(r.record[name]), at, weight})
	r.record[name] = append(r.record[name], Admission{At: at, ID: id, Weight: weight, Added: added(id), Addr: r.addr})
}

// split adds an entry for a part of an admission whose entry the same transaction has removed.
func (r *recorder) split(name, id string, at int64, weight int) error {
	old, found := r.removed[name][strings.TrimSuffix(id, "=")] // which may be a part, too
	if !found {
		old, found = r.removed[name][admissionOf(id)]
	}
	if !found || old.at != at {
		return fmt.Errorf("%s at %d is not a part of an entry that is removed", id, at)
	}
	log, a := r.log(name), &r.record[name][old.admission]
	log.add(id, part{old.admission, at, weight})
	a.Refunded -= weight
	a.Gone = ""
	if a.Refunded < 1 {
		return fmt.Errorf("the parts of %s weigh no less than it did", admissionOf(id))
	}
	return nil
}

// copied adds an entry that another server has recorded, or this one before the log moved away and came back.
func (r *recorder) copied(name, id string, at int64, weight int) {
	whole := admissionOf(id)
	log, admissions := r.log(name), r.record[name]
	i := len(admissions) - 1
	for i >= 0 && admissions[i].ID != whole {
		i--
	}
	if i < 0 {
		i = len(admissions)
		log.left = append(log.left, 0)
		admissions = append(admissions, Admission{At: at, ID: whole, Added: added(whole), Addr: r.addr})
		r.record[name] = admissions
	}
	log.add(id, part{i, at, weight})
	admissions[i].Weight = max(admissions[i].Weight, log.left[i])
	admissions[i].Gone = ""
}

func (r *recorder) remove(name, member, how string) {
	log := r.log(name)
	if IsMark(member) {
		delete(log.marks, member)
		return
	}
	id, weight, _ := parseMember(member)
	p, there := log.parts[id]
	if !there || p.weight != weight {
		return
	}
	log.remove(id, p)
	a := &r.record[name][p.admission]
	if how == "ZREM" {
		a.Refunded += p.weight
		if r.removed[name] == nil {
			r.removed[name] = map[string]part{}
		}
		r.removed[name][id] = p
	}
	if log.left[p.admission] == 0 {
		a.Gone = how
	}
}

func (r *recorder) removeAll(name, how string) {
	r.removeIf(name, how, func(int64) bool { return true })
}

func (r *recorder) removeIf(name, how string, is func(score int64) bool) {
	log := r.log(name)
	for id, p := range log.parts {
		if is(p.at) {
			r.remove(name, memberOf(id, p.weight), how)
		}
	}
	for mark, score := range log.marks {
		if is(score) {
			delete(log.marks, mark)
		}
	}
}

func (r *recorder) removeByScore(words []string) error {
	last, err := strconv.ParseInt(words[3], 10, 64)
	if err != nil || words[2] != "0" && words[2] != "-inf" {
		return errors.New("a range that is not everything up to a whole number of microseconds")
	}
	r.removeIf(words[1], words[0], func(score int64) bool {
		return score <= last && (score >= 0 || words[2] == "-inf")
	})
	return nil
}

func (r *recorder) removeByRank(words []string) error {
	first, err1 := strconv.Atoi(words[2])
	last, err2 := strconv.Atoi(words[3])
	if err1 != nil || err2 != nil || first < 0 || last < first {
		return errors.New("a range of ranks that are not counted from the first member")
	}
	for i, m := range r.log(words[1]).members() {
		if i >= first && i <= last {
			r.remove(words[1], m.text, words[0])
		}
	}
	return nil
}
