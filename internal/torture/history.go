package torture

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Call is what one caller saw of one call under one limit. Moments are microseconds of the machine's clock.
type Call struct {
	Key          string
	Cost         int // units; 0 is 1
	Sent, Came   int64
	Allowed      bool
	Banned       bool       // denied because of a ban, where a call has one limit
	Source       string     // core.Source as text: who decided
	States       [][2]int64 `json:",omitempty"` // retry and reset under each limit, in microseconds, of a denial
	Retry, Reset int64      `json:"-"`          // under this limit
	// Elsewhere marks a denial by another limit of the call. Nothing is known then of this one.
	Elsewhere bool        `json:"-"`
	Err       string      `json:",omitempty"`
	Settled   *Settlement `json:",omitempty"` // nil if the call was not settled
	// Of a request in flight, when its handler returned, and when it was released.
	Ends, Ended int64 `json:",omitempty"`
}

// Settlement is what a call was settled to after it was admitted.
type Settlement struct {
	Cost int
	Came int64  // when that was done
	Err  string `json:",omitempty"`
}

// Redis and Cache are the sources that speak of the log in Redis. Any other has decided without it, perhaps after asking it.
const (
	Redis = "redis"
	Cache = "denial-cache"
)

// under is what the caller saw of one of the limits.
func (c Call) under(limit int) Call {
	if len(c.States) == 0 {
		return c
	}
	c.Retry, c.Reset = c.States[limit][0], c.States[limit][1]
	c.Elsewhere = c.Retry == 0 && slices.ContainsFunc(c.States, func(s [2]int64) bool { return s[0] > 0 })
	return c
}

func (c Call) cost() int { return max(1, c.Cost) }

// known says that the caller knows what became of its request in Redis: no error and no other's decision hides it.
func (c Call) known() bool { return c.Err == "" && (c.Source == Redis || c.Source == Cache) }

// Step is a step of the servers' clocks.
type Step struct {
	From, To int64 // the machine's clock before the step and after it, in microseconds
	Offset   int64 // by how much the servers' clocks are ahead of the machine's from then on, in microseconds
	// Recorded is how much was recorded in each log before the step, by From. It need not be said of a step forward.
	Recorded map[string]int
}

// Uneven looks for admissions that two limits do not share: of a call under both, each charges what the other does.
func (h History) Uneven(other History) []string {
	var found violations
	ours, theirs := redistest.Merge(h.Records...), redistest.Merge(other.Records...)
	for _, key := range h.keys() {
		charged := map[string]int{}
		for _, a := range ours[h.log(key)] {
			charged[a.ID] = a.Left()
		}
		for _, a := range theirs[other.log(key)] {
			if charged[a.ID] != a.Left() {
				found.add("%s: %s was charged %d to one limit and %d to the other", key, a.ID, charged[a.ID], a.Left())
			}
			delete(charged, a.ID)
		}
		for id, units := range charged {
			found.add("%s: %s was charged %d to one limit and nothing to the other", key, id, units)
		}
	}
	return found.list()
}

// History is a run under one limit: what the callers saw and what the servers recorded. Its methods each check one thing
// that must hold whatever happened, and say in words where it does not.
type History struct {
	Max     int
	Window  time.Duration
	Within  time.Duration // each call must be back by then
	Calls   []Call
	Records []redistest.Record // of each server, and of each life of its data
	Bans    map[string][]redistest.Ban
	// Log gives the log of a key in the records. Where it is nil, the log is named as the key.
	Log func(key string) string

	// Apart is how far the servers' clocks may be from the machine's at any time: that of a Valkey 9.1 is up to some hundred
	// microseconds ahead, and not always as far.
	Apart time.Duration

	// GivesBack has calls settled to less than they were charged. Unfounded checks nothing then.
	GivesBack bool

	Losses int              // how often servers may have forgotten admissions
	Lost   redistest.Record // what was forgotten, as far as it is known: see redistest.Missing
	Steps  []Step           // in their order
}

// Check returns what all checks find.
func (h History) Check() []string {
	return slices.Concat(h.OverAdmitted(), h.Unaccounted(), h.Repeated(), h.Unfounded(), h.Pardoned(), h.Late())
}

// Pardoned looks for admissions during a ban, and for bans of logs that had room. What a question has admitted at the
// moment at which it begins a ban came before the ban. Clocks must not have stepped.
func (h History) Pardoned() []string {
	var found violations
	largest := 1
	for _, call := range h.Calls {
		largest = max(largest, call.cost())
	}
	h.each(func(key string, admitted []redistest.Admission) {
		for _, ban := range h.Bans[h.log(key)] {
			held := 0
			for _, a := range admitted {
				if a.At > ban.From && a.At < ban.To {
					found.add("%s: %s was admitted at %d, during a ban from %d to %d", key, a.ID, a.At, ban.From, ban.To)
				}
				if a.At > ban.From-h.Window.Microseconds() && a.At <= ban.From {
					held += a.Weight
				}
			}
			if held+largest <= h.Max {
				found.add("%s: banned at %d, when it held %d of %d units", key, ban.From, held, h.Max)
			}
		}
	})
	return found.list()
}

// banned reports whether a log was banned at some moment of a call.
func (h History) banned(call Call) bool {
	return slices.ContainsFunc(h.Bans[h.log(call.Key)], func(ban redistest.Ban) bool {
		return ban.From <= call.Came+h.slack() && ban.To > call.Sent-h.slack() &&
			call.Came+h.slack()+call.Retry >= ban.To
	})
}

// OverAdmitted looks for windows, on the servers' clocks, in which more units were admitted than Max, or than Max once more for
// each time that data was lost. Of each log it names the worst.
func (h History) OverAdmitted() []string {
	var found violations
	limit := h.Max * (1 + h.Losses)
	h.each(func(key string, admitted []redistest.Admission) {
		if w := h.worst(admitted); w.units > limit {
			found.add("%s: %d admissions within %v, where %d are allowed: from %d (%s, %s) to %d (%s, %s)",
				key, w.units, h.Window, limit, w.first.At, w.first.ID, w.first.Addr, w.last.At, w.last.ID, w.last.Addr)
		}
	})
	return found.list()
}

// Unaccounted compares the units that callers know to be admitted with those that servers recorded. Every one a caller
// knows of was recorded, and one that no caller knows of belongs to a call whose outcome its caller does not know. So
// it is with what calls were settled to.
func (h History) Unaccounted() []string {
	var found violations
	acknowledged, unknown := map[string]int{}, map[string]int{}
	least, most, settles := map[string]int{}, map[string]int{}, false
	for _, call := range h.Calls {
		switch {
		case !call.known():
			unknown[call.Key] += call.cost()
		case call.Allowed:
			acknowledged[call.Key] += call.cost()
			low, high := h.charged(call)
			least[call.Key], most[call.Key] = least[call.Key]+low, most[call.Key]+high
			settles = settles || call.Settled != nil
		}
	}
	h.each(func(key string, admitted []redistest.Admission) {
		// A call that is sent again after its admission was forgotten may be admitted twice, or be denied.
		recorded, lost, left := 0, redistest.Units(h.Lost[h.log(key)]), 0
		for _, a := range admitted {
			left += a.Left()
			if !a.Added {
				recorded += a.Weight
			}
		}
		if acknowledged[key] > recorded {
			found.add("%s: callers were told of %d admissions, and the servers recorded %d", key, acknowledged[key], recorded)
		}
		if recorded > acknowledged[key]+unknown[key]+lost {
			found.add("%s: the servers recorded %d admissions; %d callers were told, %d do not know and %d were forgotten",
				key, recorded, acknowledged[key], unknown[key], lost)
		}
		if least[key] > left && settles {
			found.add("%s: callers were told that calls have cost %d, and the servers have charged %d", key, least[key], left)
		}
		if left > most[key]+unknown[key]+lost && settles {
			found.add("%s: the servers have charged %d; what callers were told is %d at most, %d they do not know"+
				" and %d were forgotten", key, left, most[key], unknown[key], lost)
		}
	})
	return found.list()
}

// charged returns the least and the most that an admitted call is charged once it is settled. What it gives back is not
// known if its window may have been over by then.
func (h History) charged(c Call) (least, most int) {
	switch {
	case c.Settled == nil:
		return c.cost(), c.cost()
	case c.Settled.Err == "" && (c.Settled.Cost >= c.cost() || c.Settled.Came-c.Sent < h.Window.Microseconds()):
		return c.Settled.Cost, c.Settled.Cost
	}
	return min(c.cost(), c.Settled.Cost), max(c.cost(), c.Settled.Cost)
}

// Repeated looks for requests that were charged twice within a window. Where data was lost, a server that does not know of
// the first charge may make the second.
func (h History) Repeated() []string {
	var found violations
	look := func(key string, admitted []redistest.Admission) {
		last := map[string]redistest.Admission{}
		for _, a := range byTime(admitted) {
			if before, is := last[a.ID]; is && a.At-before.At < h.Window.Microseconds() {
				found.add("%s: %s was charged at %d (%s) and again at %d (%s)", key, a.ID, before.At, before.Addr, a.At, a.Addr)
			}
			last[a.ID] = a
		}
	}
	if h.Losses == 0 {
		h.each(look)
		return found.list()
	}
	for _, record := range h.Records {
		for _, key := range h.keys() {
			look(key, record[h.log(key)])
		}
	}
	return found.list()
}

// Unfounded looks for denials while there was room: those for which no moment within the call can be found at which the log
// was full in just the way the denial says. The log is what all servers recorded, since they may hand it on to each other;
// where data was lost, it is what one of them did. When units were given back is not known, so a log is tried with and without
// them, and before and after entries were moved: where a server's clock is not steady, the script moves
// entries that are in its future. A denial that a step of the clock excuses counts as founded: see excused.
func (h History) Unfounded() []string {
	var found violations
	if h.GivesBack {
		return nil
	}
	records := h.Records
	if h.Losses == 0 {
		records = []redistest.Record{redistest.Merge(records...)}
	}
	logs := map[string][]entries{} // of each name, those that may have denied
	for _, record := range records {
		for log, admitted := range record {
			admitted = byTime(h.unstepped(log, admitted))
			whole := func(a redistest.Admission) int { return a.Weight }
			logs[log] = append(logs[log], entriesOf(admitted, whole))
			if slices.ContainsFunc(admitted, func(a redistest.Admission) bool { return a.Moved != 0 }) && len(h.Steps) == 0 {
				moved := slices.Clone(admitted)
				for i := range moved {
					moved[i].At = moved[i].Stands()
				}
				logs[log] = append(logs[log], entriesOf(byTime(moved), whole))
			}
			if slices.ContainsFunc(admitted, func(a redistest.Admission) bool { return a.Refunded > 0 }) {
				logs[log] = append(logs[log], entriesOf(admitted, redistest.Admission.Left))
			}
		}
	}
	for _, call := range h.Calls {
		if !call.known() || call.Allowed || call.Elsewhere || h.excused(call) || call.Banned && h.banned(call) {
			continue
		}
		if !slices.ContainsFunc(logs[h.log(call.Key)], func(log entries) bool { return h.founded(log, call) }) {
			found.add("%s: denied by %s while there was room, by a call from %d to %d, with retry after %d µs and reset after %d µs",
				call.Key, call.Source, call.Sent, call.Came, call.Retry, call.Reset)
		}
	}
	return found.list()
}

// Excused counts the denials that Unfounded does not check, because of a step of the clock.
func (h History) Excused() int {
	n := 0
	for _, call := range h.Calls {
		if call.known() && !call.Allowed && h.excused(call) {
			n++
		}
	}
	return n
}

// Late looks for calls that were not back in time.
func (h History) Late() []string {
	var found violations
	for _, call := range h.Calls {
		if took := call.took(); took > h.Within {
			found.add("%s: a call from %d took %v, where %v are allowed (%s)", call.Key, call.Sent, took, h.Within, call.outcome())
		}
	}
	return found.list()
}

func (c Call) took() time.Duration { return time.Duration(c.Came-c.Sent) * time.Microsecond }

func (c Call) outcome() string {
	switch {
	case c.Err != "":
		return c.Err
	case c.Allowed:
		return "allowed by " + c.Source
	}
	return "denied by " + c.Source
}

// excused says whether a clock that stepped stands behind a denial. After a step back, a log holds entries from what is now
// the future, which leave within a window after the first denial, which comes soon where many ask. After a step forward,
// the denial cache goes on denying for what it was told before, for as long as that is true of a clock that did not step.
func (h History) excused(call Call) bool {
	before := int64(0)
	for _, step := range h.Steps {
		back := before - step.Offset
		before = step.Offset
		if back < 0 && call.Source != Cache {
			continue
		}
		if call.Came >= step.From && call.Sent <= step.To+min(max(0, back), h.Window.Microseconds())+h.Window.Microseconds() {
			return true
		}
	}
	return false
}

// founded tries all offsets that the servers' clocks had during a call, as if they had not stepped back.
func (h History) founded(log entries, call Call) bool {
	check := h.foundedInRedis
	if call.Source == Cache {
		check = h.foundedInCache
	}
	offset := int64(0)
	for _, step := range h.Steps {
		if step.Offset < offset {
			continue
		}
		if call.Sent <= step.To && check(log, call.shifted(offset)) {
			return true
		}
		if call.Came < step.From {
			return false
		}
		offset = step.Offset
	}
	return check(log, call.shifted(offset))
}

func (c Call) shifted(by int64) Call {
	c.Sent, c.Came = c.Sent+by, c.Came+by
	return c
}

// slack is how far apart a moment of the machine's clock and the same moment of a server's may be: both are cut to microseconds.
func (h History) slack() int64 { return 1 + h.Apart.Microseconds() }

// entries is what was ever admitted to a log, in the order of time.
type entries struct {
	at    []int64
	units []int // of all entries up to this one
}

func entriesOf(admitted []redistest.Admission, units func(redistest.Admission) int) (log entries) {
	sum := 0
	for _, a := range admitted {
		if n := units(a); n > 0 {
			sum += n
			log.at, log.units = append(log.at, a.At), append(log.units, sum)
		}
	}
	return log
}

// between returns the units of the entries after one and up to another, of which -1 is before the first.
func (e entries) between(after, to int) int {
	before := 0
	if after >= 0 {
		before = e.units[after]
	}
	return e.units[to] - before
}

// long reports whether there are a hundred entries from one to another, and any of them weighs more than a unit.
func (e entries) long(from, to int) bool {
	return to-from >= 100 && e.between(from-1, to) > to-from+1
}

// from returns the first entry at a moment or later.
func (e entries) from(at int64) int {
	return sort.Search(len(e.at), func(i int) bool { return e.at[i] >= at })
}

// decisive reports whether a log whose newest entry is the last one denies the call until the entry k has expired, and no longer.
func (h History) decisive(log entries, k, last int, call Call) bool {
	return k <= last && log.between(k-1, last)+call.cost() > h.Max && log.between(k, last)+call.cost() <= h.Max
}

// cutShort reports whether a log whose newest entry is the last one denies the call until the entry k has expired, and
// longer. A call with many questions about long logs with weights may have spent its budget before it has read all the
// entries that must expire, and then tells of those that it has read.
func (h History) cutShort(log entries, k, last int, call Call) bool {
	return log.long(k, last) && log.between(k, last)+call.cost() > h.Max
}

// foundedInRedis looks for a moment within the call at which so many units were in the log that the call's did not fit, and
// the entry that had to expire first, and the newest, had just the time left that the denial says. Of a call that was sent again, a
// denial by the first attempt may say that there is room by now: in a microsecond.
func (h History) foundedInRedis(log entries, call Call) bool {
	window := h.Window.Microseconds()
	for k := log.from(call.Sent - h.slack() - window + call.Retry); k < len(log.at) && call.Retry > 0; k++ {
		now := log.at[k] + window - call.Retry
		if now > call.Came+h.slack() {
			break
		}
		newest := now + call.Reset - window
		for last := log.from(newest); newest <= now && last < len(log.at) && log.at[last] == newest; last++ {
			if h.decisive(log, k, last, call) || h.cutShort(log, k, last, call) {
				return true
			}
		}
	}
	return call.Retry == 1 && h.full(log, call)
}

// full reports whether the call had no room at a moment within it.
func (h History) full(log entries, call Call) bool {
	for k := log.from(call.Sent - h.slack() - h.Window.Microseconds()); k < len(log.at) && log.at[k] <= call.Came+h.slack(); k++ {
		until := log.at[k] + h.Window.Microseconds()
		for last := max(k, log.from(call.Sent-h.slack())-1); last < len(log.at) && log.at[last] < min(until, call.Came+h.slack()+1); last++ {
			if log.between(k-1, last)+call.cost() > h.Max {
				return true
			}
		}
	}
	return false
}

// foundedInCache is the same of a denial that another call's reply told of. That call's moment is not known, so what the
// denial says is counted from its reply, and may be later than the truth by the time that the reply took. It is not
// earlier, unless it was cut short.
func (h History) foundedInCache(log entries, call Call) bool {
	window := h.Window.Microseconds()
	for k := log.from(call.Sent - h.slack() - window); k < len(log.at); k++ {
		last := k + sort.Search(len(log.at)-k, func(i int) bool { return log.between(k-1, k+i)+call.cost() > h.Max })
		if last == len(log.at) {
			return false // and nor will a later entry
		}
		from, to := log.at[last], log.at[k]+window // full from the one until just before the other
		if from > call.Came+h.slack() {
			return false
		}
		if h.decisive(log, k, last, call) && to > call.Sent-h.slack() && to > from &&
			(call.Came+h.slack()+call.Retry >= to || log.long(k, last)) && call.Came+h.slack()+call.Reset >= from+window {
			return true
		}
	}
	return false
}

// window is the fullest of a log, among those that end with an admission.
type window struct {
	units       int
	first, last redistest.Admission
}

func (h History) worst(admitted []redistest.Admission) (worst window) {
	admitted = byTime(admitted)
	first, units := 0, 0
	for _, a := range admitted { // the fullest can be slid until it ends at an admission
		units += a.Left()
		for admitted[first].At <= a.At-h.Window.Microseconds() {
			units -= admitted[first].Left()
			first++
		}
		if units > worst.units && !a.Added {
			worst = window{units, admitted[first], a}
		}
	}
	return worst
}

func byTime(admitted []redistest.Admission) []redistest.Admission {
	return slices.SortedStableFunc(slices.Values(admitted), func(a, b redistest.Admission) int { return int(a.At - b.At) })
}

func (h History) log(key string) string {
	if h.Log == nil {
		return key
	}
	return h.Log(key)
}

func (h History) keys() []string {
	keys := map[string]bool{}
	for _, call := range h.Calls {
		keys[call.Key] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

// unstepped is what a server recorded in a log, in its order, as if its clock had not stepped back, after which its moments
// come once more.
func (h History) unstepped(log string, admitted []redistest.Admission) []redistest.Admission {
	admitted = slices.Clone(admitted)
	offset := int64(0)
	for _, step := range h.Steps {
		back := offset - step.Offset
		if back > 0 {
			i := min(step.Recorded[log], len(admitted))
			for i < len(admitted) && admitted[i].At >= step.From+offset && admitted[i].At <= step.To+offset {
				i++ // recorded while the step was made, and before it
			}
			for ; i < len(admitted); i++ {
				admitted[i].At += back
			}
			continue // and the clock is as it was
		}
		offset = step.Offset
	}
	return admitted
}

// each goes through the logs of all keys that were called, as all servers together recorded them.
func (h History) each(look func(key string, admitted []redistest.Admission)) {
	merged := redistest.Merge(h.Records...)
	for _, key := range h.keys() {
		look(key, h.unstepped(h.log(key), merged[h.log(key)]))
	}
}

// violations are what a check found, of which the first few are worth reading.
type violations struct {
	first []string
	n     int
}

func (v *violations) add(format string, args ...any) {
	if v.n++; v.n <= 10 {
		v.first = append(v.first, fmt.Sprintf(format, args...))
	}
}

func (v *violations) list() []string {
	if more := v.n - len(v.first); more > 0 {
		return append(v.first, fmt.Sprintf("and %d more of these", more))
	}
	return v.first
}
