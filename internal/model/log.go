package model

import "slices"

// Log is the log of the one key, as the script keeps it. It is a value, so that states can be compared.
type Log struct {
	entries [2 * maxRequests]entry // oldest first, then empty ones
	early   bool                   // the mark "~": units were given back, so a denial may end early
	banned  bool                   // the mark "!"
	ban     int8                   // if banned: ticks until the ban ends on Redis's clock
}

// entry is an entry of the log. An empty one has no units.
type entry struct {
	age     int8 // ticks since its admission on Redis's clock; negative if the clock was stepped back
	units   int8
	request int8
	kind    kind
}

// kind tells the entries of a request apart, as their names in the script do.
type kind int8

const (
	reserved   kind = iota // what the request was charged when it was admitted
	settled                // what replaces that if the request has cost less
	difference             // what is added to it if the request has cost more
)

// Reply is the script's answer to a request.
type Reply struct {
	Granted bool
	Retry   int8 // ticks until one request more of the same cost fits, 0 if it does now
	Early   bool // it may fit before that
	Ban     int8 // ticks until the ban ends, or 0
}

// Sure returns for how many ticks the denial of one request more is sure, and begins no ban.
func (r Reply) Sure(c *Config) int8 {
	switch {
	case r.Ban > 0 && c.Bug == BanCachedLonger:
		return max(r.Ban, r.Retry)
	case r.Ban > 0:
		return r.Ban
	case c.Ban > 0 && c.Bug != BanNotBegun, r.Early && c.Bug != NoMark, c.InFlight && c.Bug != CacheKnowsFlights:
		return 0
	}
	return r.Retry
}

// live returns the entries.
func (l *Log) live() []entry {
	n := slices.IndexFunc(l.entries[:], func(e entry) bool { return e.units == 0 })
	if n < 0 {
		n = len(l.entries)
	}
	return l.entries[:n]
}

// Pass lets ticks pass on Redis's clock, or steps it.
func (l *Log) Pass(ticks int8) {
	for i := range l.live() {
		l.entries[i].age += ticks
	}
	if l.banned {
		l.ban -= ticks
	}
}

// Entries returns the age and the units of each entry, oldest first.
func (l *Log) Entries() (entries [][2]int) {
	for _, e := range l.live() {
		entries = append(entries, [2]int{int(e.age), int(e.units)})
	}
	return entries
}

// replace makes entries the content of the log.
func (l *Log) replace(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int {
		if a.age != b.age {
			return int(b.age - a.age)
		}
		return int(a.request-b.request)*8 + int(a.kind-b.kind)
	})
	l.entries = [len(l.entries)]entry{}
	copy(l.entries[:], entries)
	l.early = l.early && len(entries) > 0
}

// clean removes the expired entries, and a ban that has ended. A ban lasts no longer than when it began.
func (l *Log) clean(c *Config) {
	l.replace(slices.DeleteFunc(slices.Clone(l.live()), func(e entry) bool { return e.age >= c.Window }))
	l.ban = min(l.ban, c.Ban)
	if l.ban <= 0 || c.Bug == BanExpires && len(l.live()) == 0 {
		l.banned, l.ban = false, 0
	}
}

func (l *Log) units() (n int8) {
	for _, e := range l.live() {
		n += e.units
	}
	return n
}

func (l *Log) find(request int8, k kind) *entry {
	for i := range l.live() {
		if e := &l.entries[i]; e.request == request && e.kind == k {
			return e
		}
	}
	return nil
}

// add adds an entry, unless it is there.
func (l *Log) add(e entry) {
	if l.find(e.request, e.kind) == nil {
		l.replace(append(slices.Clone(l.live()), e))
	}
}

// remove removes an entry.
func (l *Log) remove(request int8, k kind) {
	l.replace(slices.DeleteFunc(slices.Clone(l.live()),
		func(e entry) bool { return e.request == request && e.kind == k }))
}

// Admit answers a request, and reports whether it was charged now. Again says that an earlier attempt may have been
// executed.
func (l *Log) Admit(c *Config, request, cost int8, again bool) (r Reply, charged bool) {
	l.clean(c)
	known := again && l.find(request, reserved) != nil && c.Bug != RetryChargesTwice
	switch {
	case known:
		r.Granted = true
	case l.banned && c.Bug != BanProlonged:
	case !l.banned && (l.units()+cost <= c.Max || c.Bug == OneTooMany && l.units() == c.Max):
		r.Granted, charged = true, true
		if c.Bug == RetryChargesTwice && again && l.find(request, reserved) != nil {
			l.add(entry{units: cost, request: request, kind: difference})
		} else {
			l.add(entry{units: cost, request: request})
		}
	default:
		l.banned, l.ban = c.Ban > 0, c.Ban
	}
	full := l.units()+cost > c.Max
	if r.Granted && !full {
		return r, charged
	}
	r.Early, r.Ban = l.early, l.ban
	live := l.live()
	if len(live) > 0 && !charged && live[len(live)-1].age < 0 || full && l.roomIn(c, cost) > c.Window {
		l.restamp()
	}
	if full {
		r.Retry = min(l.roomIn(c, cost), c.Window)
	}
	return r, charged
}

// restamp moves entries from the future to the present.
func (l *Log) restamp() {
	for i := range l.live() {
		l.entries[i].age = max(0, l.entries[i].age)
	}
}

// roomIn returns the ticks until cost units fit.
func (l *Log) roomIn(c *Config, cost int8) int8 {
	missing := l.units() + cost - c.Max
	for _, e := range l.live() {
		if missing -= e.units; missing <= 0 {
			return c.Window - e.age
		}
	}
	return 0
}

// Settle changes what a request of a cost was charged to what it has really cost, and reports whether it has given back
// units.
func (l *Log) Settle(c *Config, request, cost, actual int8) bool {
	if actual > cost {
		if c.Bug != OverchargeForgotten && (l.find(request, difference) == nil || c.Bug == SettleChargesTwice) {
			l.replace(append(slices.Clone(l.live()), entry{units: actual - cost, request: request, kind: difference}))
		}
		return false
	}
	e := l.find(request, reserved)
	if e == nil && c.Bug == ReleasedTwice && len(l.live()) > 0 {
		e = &l.entries[0]
		request = e.request
	}
	if e == nil {
		return false
	}
	age := e.age
	l.remove(request, reserved)
	if actual > 0 {
		l.add(entry{age: age, units: actual, request: request, kind: settled})
	}
	if !slices.ContainsFunc(l.live(), func(e entry) bool { return e.age < c.Window }) {
		l.replace(nil)
		if l.ban <= 0 || c.Bug == BanSettled {
			l.banned, l.ban = false, 0
		}
	}
	l.early = len(l.live()) > 0 && c.Bug != NoMark
	return true
}

// Renew moves what a request of a cost was charged to the present, if it is there and has not expired.
func (l *Log) Renew(c *Config, request, cost int8) {
	e := l.find(request, reserved)
	if e == nil && c.Bug == RenewsReleased {
		l.add(entry{units: cost, request: request})
	}
	if e == nil || e.age >= c.Window || c.Bug == NotRenewed {
		return
	}
	ahead := e.age < 0
	e.age = 0
	if ahead {
		l.restamp()
	}
	l.replace(slices.Clone(l.live()))
}
