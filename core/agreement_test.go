package core

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
)

// agreement asks all stores and the oracle the same, and requires that they answer alike, to the microsecond.
type agreement struct {
	stores   map[string]clocked
	logs     map[string]*oracle.Log
	admitted []*admission
	// whole requires that the denial cache knows the whole truth. Otherwise its denials are right, but it does not know
	// what others have taken since.
	whole bool
	met   map[string]int // how often each of the rules has decided
}

// rules are the reasons for answers, and the ways in which logs change.
var rules = []string{
	"room", "room for a cost", "room by expiry", "no room", "no room under one of two limits", "more than Max",
	"denial cache", "a ban begins", "banned", "a ban is over", "in flight", "too many in flight", "released",
	"released again", "given back", "charged more", "settled again", "peek", "reset",
}

func newAgreement(stores map[string]clocked, met map[string]int) *agreement {
	return &agreement{stores: stores, logs: map[string]*oracle.Log{}, met: met}
}

// ask allows a request or peeks.
func (a *agreement) ask(t require.TestingT, now int64, verb verb, key string, cost int, limits ...Limit) {
	allowed, full := true, 0
	for _, limit := range limits {
		log, window := at(a.logs, key, limit), limit.Window.Microseconds()
		if !log.Fits(now, window, cost, limit.Max) {
			allowed = false
			full++
		}
		a.meet("banned", log.Banned(now))
		a.meet("a ban is over", log.BanEnds > 0 && !log.Banned(now))
		a.meet("more than Max", log.Count(now, window) > limit.Max)
		a.meet("too many in flight", limit.InFlight && log.Count(now, window)+cost > limit.Max)
		a.meet("room by expiry", log.Count(now, window)+cost <= limit.Max &&
			log.Count(now, math.MaxInt64)+cost > limit.Max)
	}
	a.meet("peek", verb == peek)
	a.meet("room", allowed && verb == admit)
	a.meet("room for a cost", allowed && cost > 1)
	a.meet("no room", !allowed)
	a.meet("no room under one of two limits", full == 1 && len(limits) == 2)

	charged := &admission{
		stores: map[string]Decision{}, oracle: map[*oracle.Log]int{}, flights: map[*oracle.Log]int{},
		at: now, cost: cost,
	}
	var want []State
	for _, limit := range limits {
		log, window := at(a.logs, key, limit), limit.Window.Microseconds()
		switch {
		case verb == peek:
		case allowed && limit.InFlight:
			charged.flights[log] = log.Admit(now, cost)
			a.meet("in flight", true)
		case allowed:
			charged.oracle[log] = log.Admit(now, cost)
		default:
			before := log.BanEnds
			log.Deny(now, window, cost, limit.Max, limit.Ban.Microseconds())
			a.meet("a ban begins", log.BanEnds != before)
		}
		want = append(want, stateOf(log, now, cost, limit))
	}
	for name, store := range a.stores {
		var got Decision
		if verb == peek {
			got = store.peek(t, now, key, limits...)
		} else {
			got = store.allow(t, now, key, cost, limits...)
		}
		require.Equal(t, allowed, got.Allowed, name)
		charged.stores[name] = got
		a.meet("denial cache", got.Source == SourceDenialCache)
		if got.Source != SourceDenialCache || a.whole {
			require.Equal(t, want, got.States(), name)
			continue
		}
		for i, state := range got.States() {
			require.Equal(t, want[i].Limit, state.Limit)
			require.LessOrEqual(t, state.RetryAfter, want[i].RetryAfter, "later than the truth")
			require.LessOrEqual(t, state.ResetAfter, want[i].ResetAfter, "later than the truth")
		}
	}
	if allowed && verb == admit {
		a.admitted = append(a.admitted, charged)
	}
}

// settle settles an admission, perhaps again, and perhaps one that has left.
func (a *agreement) settle(t require.TestingT, now int64, of *admission, cost int) {
	a.meet("settled again", of.settled && now < of.until)
	a.meet("given back", !of.settled && cost < of.cost)
	a.meet("charged more", !of.settled && cost > of.cost)
	of.settle(t, a.stores, now, cost)
}

// release releases an admission, perhaps again.
func (a *agreement) release(t require.TestingT, now int64, of *admission) {
	for log, i := range of.flights {
		a.meet("released", log.Admitted[i].Units > 0)
		a.meet("released again", log.Admitted[i].Units == 0)
	}
	of.release(t, a.stores, now)
}

func (a *agreement) reset(t require.TestingT, key string, limit Limit) {
	for _, store := range a.stores {
		store.reset(t, key, limit)
	}
	log := at(a.logs, key, limit)
	a.meet("reset", slices.ContainsFunc(log.Admitted, func(e oracle.Admission) bool { return e.Units > 0 }))
	log.Empty()
	forget(a.admitted, log)
}

func (a *agreement) meet(rule string, met bool) {
	if met {
		a.met[rule]++
	}
}

// One timeline that meets every rule, in the order of the rows.
func TestStoresAgreeWithOracleOnEveryRule(t *testing.T) {
	a := newAgreement(clockedStores(t), map[string]int{})
	plain, less := Limit{Name: "a", Max: 4, Window: time.Second}, Limit{Name: "a", Max: 2, Window: time.Second}
	brief := Limit{Name: "b", Max: 2, Window: 7 * time.Millisecond}
	bans := Limit{Name: "c", Max: 1, Window: time.Second, Ban: 3 * time.Second}
	flight := InFlight("d", 2, time.Hour)
	const ms = int64(1000)
	for _, row := range []struct {
		at    int64
		does  string
		n     int // the cost, or the number of the admission
		rule  string
		under []Limit
	}{
		{0, "allow", 1, "room", []Limit{plain}},                                   // admission 0
		{1, "allow", 2, "room for a cost", []Limit{plain, brief}},                 // admission 1
		{2, "peek", 1, "peek", []Limit{plain}},                                    //
		{3, "allow", 1, "no room under one of two limits", []Limit{brief, plain}}, //
		{7*ms + 1, "allow", 1, "room by expiry", []Limit{brief, plain}},           // admission 2
		{9 * ms, "allow", 1, "no room", []Limit{plain}},                           //
		{10 * ms, "allow", 1, "denial cache", []Limit{plain}},                     //
		{11 * ms, "allow", 1, "more than Max", []Limit{less}},                     // since Max is lower now
		{12 * ms, "settle to 1", 1, "given back", nil},                            //
		{13 * ms, "settle to 9", 1, "settled again", nil},                         // which changes nothing
		{14 * ms, "settle to 4", 0, "charged more", nil},                          //
		{15 * ms, "allow", 1, "no room", []Limit{plain}},                          //
		{16 * ms, "reset", 0, "reset", []Limit{plain}},                            //
		{17 * ms, "allow", 3, "room for a cost", []Limit{plain}},                  // admission 3
		{18 * ms, "allow", 1, "room", []Limit{plain}},                             // admission 4
		{17*ms + second - 1, "allow", 1, "no room", []Limit{plain}},               // a microsecond early
		{17*ms + second, "allow", 3, "room by expiry", []Limit{plain}},            // admission 5
		{10 * second, "allow", 1, "room", []Limit{bans}},                          // admission 6
		{10*second + 1, "allow", 1, "a ban begins", []Limit{bans}},                // until a microsecond after 13 s
		{12 * second, "allow", 1, "banned", []Limit{bans}},                        // though its entry has expired
		{13 * second, "peek", 1, "banned", []Limit{bans}},                         //
		{13*second + 1, "allow", 1, "a ban is over", []Limit{bans, brief}},        // admission 7
		{20 * second, "allow", 2, "in flight", []Limit{flight, brief}},            // admission 8
		{20*second + 1, "allow", 1, "too many in flight", []Limit{brief, flight}}, //
		{20*second + 2, "release", 8, "released", nil},                            //
		{20*second + 3, "release", 8, "released again", nil},                      //
		{20*second + 4, "allow", 2, "in flight", []Limit{flight}},                 // admission 9
	} {
		before := a.met[row.rule]
		switch row.does {
		case "allow":
			a.ask(t, row.at, admit, "ann", row.n, row.under...)
		case "peek":
			a.ask(t, row.at, peek, "ann", row.n, row.under...)
		case "reset":
			a.reset(t, "ann", row.under[0])
		case "release":
			a.release(t, row.at, a.admitted[row.n])
		default:
			var cost int
			_, err := fmt.Sscanf(row.does, "settle to %d", &cost)
			require.NoError(t, err)
			a.settle(t, row.at, a.admitted[row.n], cost)
		}
		require.Greater(t, a.met[row.rule], before, "%d: %s: %s", row.at, row.does, row.rule)
	}
	for _, rule := range rules {
		assert.Positive(t, a.met[rule], "%q decides nothing, so this shows nothing of it", rule)
	}
	assert.Len(t, a.met, len(rules))
}

// Any arrivals, of any cost and settled to any other, under any limits that change as they go, are answered alike by
// Redis, in-process and the oracle, to the microsecond. The denial cache admits and denies as they do.
func TestStoresAgreeWithOracle(t *testing.T) {
	stores, met, run := clockedStores(t), map[string]int{}, 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		a := newAgreement(stores, met)
		now := int64(0)
		windows := []time.Duration{time.Millisecond, 7 * time.Millisecond, time.Second}
		bans := []time.Duration{0, 0, time.Millisecond, time.Second, 2 * time.Second}
		least, several := 1, 3
		most := rapid.SampledFrom([]int{6, 60, min(maxMax, math.MaxInt)}).Draw(t, "largest max")
		// Where all ask the same at a cost of one, nothing can change while a log is full, so that what the denial
		// cache says is the whole truth.
		if a.whole = rapid.Bool().Draw(t, "all ask the same"); a.whole {
			least = rapid.IntRange(1, 4).Draw(t, "the max")
			most, several = least, 1
			windows = windows[rapid.IntRange(0, 2).Draw(t, "the window"):][:1]
			bans = bans[rapid.IntRange(0, 4).Draw(t, "the ban"):][:1]
		}
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			// Steps that land on the border of a window, or a microsecond beside it, are where mistakes are.
			now += rapid.SampledFrom([]int64{
				0, 0, 1, 999, 1000, 1001, 6999, 7000, 7001, 999_999, 1_000_000, 300_000,
			}).Draw(t, "step")
			key := canonicalKey(fmt.Sprint(run, rapid.SampledFrom([]string{"a", "b", "}"}).Draw(t, "key")))
			var limits []Limit
			for i := range rapid.IntRange(1, several).Draw(t, "limits") {
				limits = append(limits, Limit{
					Name:   fmt.Sprint("n", i),
					Max:    rapid.IntRange(least, most).Draw(t, "max"),
					Window: rapid.SampledFrom(windows).Draw(t, "window"),
					Ban:    rapid.SampledFrom(bans).Draw(t, "ban"),
				})
				if rapid.IntRange(0, 3).Draw(t, "in flight") == 0 { // with leases that do not end
					limits[i].InFlight, limits[i].Window, limits[i].Ban = true, time.Hour, 0
				}
			}
			cost := rapid.IntRange(1, limits[0].Max).Draw(t, "cost")
			for _, limit := range limits {
				cost = min(cost, limit.Max)
			}
			do := rapid.SampledFrom([]string{
				"allow", "allow", "allow", "allow", "allow", "allow", "settle", "settle", "settle", "release",
				"peek", "reset",
			}).Draw(t, "do")
			if a.whole || do == "peek" {
				cost = 1
			}
			switch do {
			case "allow":
				a.ask(t, now, admit, key, cost, limits...)
			case "peek":
				a.ask(t, now, peek, key, cost, limits...)
			case "reset":
				a.reset(t, key, limits[0])
			default:
				if len(a.admitted) == 0 {
					continue
				}
				if of := rapid.SampledFrom(a.admitted).Draw(t, "of"); do == "settle" {
					a.settle(t, now, of, of.actual(t))
				} else {
					a.release(t, now, of)
				}
			}
		}
	})
	t.Log(met)
	// Random requests rarely meet some of the rules. TestStoresAgreeWithOracleOnEveryRule meets all.
	for _, rule := range []string{"room", "no room", "in flight", "given back"} {
		assert.Positive(t, met[rule], "%q decides nothing, so this shows nothing of it", rule)
	}
}

// stateOf returns where the oracle says that a limit stands.
func stateOf(log *oracle.Log, now int64, cost int, limit Limit) State {
	window := limit.Window.Microseconds()
	s := State{
		Limit:      limit,
		Remaining:  log.Remaining(now, window, limit.Max),
		RetryAfter: time.Duration(log.Retry(now, window, cost, limit.Max)) * time.Microsecond,
		ResetAfter: time.Duration(log.Reset(now, window)) * time.Microsecond,
		Banned:     log.Banned(now),
	}
	if limit.InFlight {
		s.setInFlightTimes(s.ResetAfter > 0, s.RetryAfter > 0)
	}
	return s
}

// admission is one admission, as each store and each log of the oracle knows it.
type admission struct {
	stores    map[string]Decision
	oracle    map[*oracle.Log]int
	flights   map[*oracle.Log]int // of limits of requests in flight
	at        int64
	cost      int
	forgotten bool // by a reset of one of its logs
	settled   bool
	until     int64 // if it is settled, when the last trace of that leaves the last log
}

// actual draws what an admission has really cost.
func (a *admission) actual(t *rapid.T) int {
	switch rapid.IntRange(0, 3).Draw(t, "settle") {
	case 0:
		return 0
	case 1:
		return rapid.IntRange(0, a.cost).Draw(t, "less")
	}
	most := min(a.cost, min(maxMax, math.MaxInt)/100) // so that all that is added can be counted
	return a.cost + rapid.IntRange(0, 3+most).Draw(t, "more")
}

// settle settles an admission at a moment, as the first or as another time. It does not repeat what an in-process store
// can no longer know.
func (a *admission) settle(t require.TestingT, stores map[string]clocked, now int64, cost int) {
	if a.settled && now >= a.until {
		return
	}
	for name, store := range stores {
		store.settle(t, now, a.stores[name], cost)
	}
	if a.settled {
		return
	}
	a.settled, a.until = true, a.at
	for log, i := range a.oracle {
		log.Settle(i, now, a.cost, cost)
	}
	if cost > a.cost {
		a.until = now
	}
	longest := time.Duration(0)
	for _, d := range a.stores {
		for _, limit := range limitsOf(d.windowStates()) {
			longest = max(longest, limit.Window)
		}
	}
	a.until += longest.Microseconds()
	if a.forgotten && cost <= a.cost {
		a.until = now // there was nothing to give back, and so no trace
	}
}

// release releases an admission, as the first or as another time.
func (a *admission) release(t require.TestingT, stores map[string]clocked, now int64) {
	for name, store := range stores {
		store.release(t, now, a.stores[name])
	}
	for log, i := range a.flights {
		log.Refund(i)
	}
}

// forget notes that a log was reset.
func forget(admitted []*admission, log *oracle.Log) {
	for _, a := range admitted {
		if _, charged := a.oracle[log]; charged {
			a.forgotten, a.until = true, 0
		}
	}
}

func at(logs map[string]*oracle.Log, key string, limit Limit) *oracle.Log {
	id := fmt.Sprint(key, limit.Name, limit.Window, limit.InFlight)
	if logs[id] == nil {
		logs[id] = &oracle.Log{}
	}
	return logs[id]
}
