package torture

import (
	"slices"
	"sort"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Unfounded looks for denials while there was room: denials for which no time within the call exists at which the log
// was full in exactly the way that the denial says. It skips denials that a step of the clock may have caused, see
// excused, and those that another limit of the call may have caused, see Unexplained.
func (h History) Unfounded() []string {
	var found violations
	if h.GivesBack {
		return nil
	}
	logs := h.denying()
	for _, call := range h.Calls {
		if !call.known() || call.Allowed || call.Elsewhere || h.excused(call) || call.Banned && h.banned(call) {
			continue
		}
		if !h.founded(logs, call) {
			found.add("%s: denied by %s while there was room, by a call from %d to %d, "+
				"with retry after %d µs and reset after %d µs",
				call.Key, call.Source, call.Sent, call.Came, call.Retry, call.Reset)
		}
	}
	return found.list()
}

// Unexplained looks for denials while all of several limits had room, among those that do not say which limit had none:
// see Call.shared. There is one history for each limit, with the same calls.
func Unexplained(histories []History) []string {
	var found violations
	if slices.ContainsFunc(histories, func(h History) bool { return h.GivesBack }) {
		return nil
	}
	logs := make([]map[string][]entries, len(histories))
	for i, h := range histories {
		logs[i] = h.denying()
	}
	for c, call := range histories[0].Calls {
		explained := !call.known() || call.Allowed || !call.shared()
		for i, h := range histories {
			explained = explained || h.excused(call) || h.founded(logs[i], h.Calls[c])
		}
		if !explained {
			found.add("%s: denied by %s while all limits had room, by a call from %d to %d, "+
				"with retries and resets after %v µs",
				call.Key, call.Source, call.Sent, call.Came, call.States)
		}
	}
	return found.list()
}

// denying returns, by the names of logs, the logs that may have denied a call. A log is what all servers recorded,
// since they may have handed it on to each other. If data was lost, it is what one of them recorded. The time at which
// units were given back is not known, so there is a log with and one without them. A denial between two refunds need
// not agree with either; see founded. Nor is the time known at which the script moved entries that were in its future,
// as it does if a server's clock is not steady.
func (h History) denying() map[string][]entries {
	records := h.Records
	if h.Losses == 0 {
		records = []redistest.Record{redistest.Merge(records...)}
	}
	logs := map[string][]entries{}
	for _, record := range records {
		for log, admitted := range record {
			admitted = byTime(h.unstepped(log, admitted))
			whole := func(a redistest.Admission) int { return a.Weight }
			logs[log] = append(logs[log], entriesOf(admitted, whole))
			wasMoved := func(a redistest.Admission) bool { return a.Moved != 0 }
			if slices.ContainsFunc(admitted, wasMoved) && len(h.Steps) == 0 {
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
	return logs
}

// founded reports whether one of the logs explains a denial. If units of its entries were given back, it is enough that
// the log had no room with them.
func (h History) founded(logs map[string][]entries, call Call) bool {
	check := h.foundedInRedis
	if call.Source == Cache {
		check = h.foundedInCache
	}
	for _, offset := range h.offsets(call) {
		for _, log := range logs[h.log(call.Key)] {
			shifted := call.shifted(offset)
			if check(log, shifted) ||
				log.gaveBack(call.Sent-h.Window.Microseconds(), call.Came) && h.full(log, shifted) {
				return true
			}
		}
	}
	return false
}

// foundedInRedis looks for a time within the call at which the log had no room for it, and at which the entry that had
// to expire first, and the newest entry, had just the time left that the denial says. If the call was sent again, and
// its first attempt was denied, but there has been room since, the denial says that there is room in a microsecond.
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

// full reports whether the log had no room for the call at a time within it.
func (h History) full(log entries, call Call) bool {
	sent, came, window := call.Sent-h.slack(), call.Came+h.slack(), h.Window.Microseconds()
	for k := log.from(sent - window); k < len(log.at) && log.at[k] <= came; k++ {
		end := min(log.at[k]+window, came+1)
		for last := max(k, log.from(sent)-1); last < len(log.at) && log.at[last] < end; last++ {
			if log.between(k-1, last)+call.cost() > h.Max {
				return true
			}
		}
	}
	return false
}

// foundedInCache is foundedInRedis for a denial that the cache knows from the reply to another call. The time of that
// call is not known, so the denial counts from its reply. What it says may be later than the truth, by as long as the
// reply took. It is not earlier, unless it was cut short.
func (h History) foundedInCache(log entries, call Call) bool {
	sent, came, window := call.Sent-h.slack(), call.Came+h.slack(), h.Window.Microseconds()
	for k := log.from(sent - window); k < len(log.at); k++ {
		fills := func(i int) bool { return log.between(k-1, k+i)+call.cost() > h.Max }
		last := k + sort.Search(len(log.at)-k, fills)
		if last == len(log.at) {
			return false // and no later entry is decisive either
		}
		from, to := log.at[last], log.at[k]+window // the log is full from the one until just before the other
		if from > came {
			return false
		}
		if h.decisive(log, k, last, call) && to > sent && to > from &&
			(came+call.Retry >= to || log.long(k, last)) && came+call.Reset >= from+window {
			return true
		}
	}
	return false
}

// decisive reports whether a log whose newest entry is the last one denies the call just until the entry k expires.
func (h History) decisive(log entries, k, last int, call Call) bool {
	return k <= last && log.between(k-1, last)+call.cost() > h.Max && log.between(k, last)+call.cost() <= h.Max
}

// cutShort reports whether a log whose newest entry is the last one denies the call until the entry k expires, and
// longer. A call with many questions about long logs with weights may use up its budget before it has read all entries
// that must expire, and then tells of those that it has read.
func (h History) cutShort(log entries, k, last int, call Call) bool {
	return log.long(k, last) && log.between(k, last)+call.cost() > h.Max
}

// slack is how far apart the same time may be by the machine's clock and by a server's, both cut to microseconds.
func (h History) slack() int64 { return 1 + h.Apart.Microseconds() }

// banned reports whether the log was banned at a time of the call, for as long as the denial says.
func (h History) banned(call Call) bool {
	return slices.ContainsFunc(h.Bans[h.log(call.Key)], func(ban redistest.Ban) bool {
		return ban.From <= call.Came+h.slack() && ban.To > call.Sent-h.slack() &&
			call.Came+h.slack()+call.Retry >= ban.To
	})
}

// entries is everything that was ever admitted to a log, in the order of time.
type entries struct {
	at    []int64
	units []int   // of all entries up to this one
	back  []int64 // the times of entries of which units were given back later
}

func entriesOf(admitted []redistest.Admission, units func(redistest.Admission) int) (log entries) {
	sum := 0
	for _, a := range admitted {
		if n := units(a); n > 0 {
			sum += n
			log.at, log.units = append(log.at, a.At), append(log.units, sum)
		}
		if a.Refunded > 0 {
			log.back = append(log.back, a.At)
		}
	}
	return log
}

// gaveBack reports whether units were given back of an entry from one time to another.
func (e entries) gaveBack(from, to int64) bool {
	i := sort.Search(len(e.back), func(i int) bool { return e.back[i] >= from })
	return i < len(e.back) && e.back[i] <= to
}

// between returns the units of the entries after one and up to another; after -1, from the first on.
func (e entries) between(after, to int) int {
	before := 0
	if after >= 0 {
		before = e.units[after]
	}
	return e.units[to] - before
}

// long reports whether there are a hundred entries from one to another, of which any weighs more than one unit.
func (e entries) long(from, to int) bool {
	return to-from >= 100 && e.between(from-1, to) > to-from+1
}

// from returns the index of the first entry at a time or later.
func (e entries) from(at int64) int {
	return sort.Search(len(e.at), func(i int) bool { return e.at[i] >= at })
}
