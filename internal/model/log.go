package model

import "slices"

// Log is the log of the one key, as the script keeps it. It is a value, so that states can be compared.
type Log struct {
	entries [2 * maxRequests]entry // oldest first, then empty ones
	early   bool                   // the mark "~": units were given back, so a denial may end early
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

// clean removes the expired entries.
func (l *Log) clean(window int8) {
	l.replace(slices.DeleteFunc(slices.Clone(l.live()), func(e entry) bool { return e.age >= window }))
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
	l.replace(slices.DeleteFunc(slices.Clone(l.live()), func(e entry) bool { return e.request == request && e.kind == k }))
}

// Admit answers a request, and reports whether it was charged now. Again says that an earlier attempt may have been
// executed.
func (l *Log) Admit(c *Config, request, cost int8, again bool) (r Reply, charged bool) {
	l.clean(c.Window)
	known := again && l.find(request, reserved) != nil && c.Bug != RetryChargesTwice
	switch {
	case known:
		r.Granted = true
	case l.units()+cost <= c.Max || c.Bug == OneTooMany && l.units() == c.Max:
		r.Granted, charged = true, true
		if c.Bug == RetryChargesTwice && again && l.find(request, reserved) != nil {
			l.add(entry{units: cost, request: request, kind: difference})
		} else {
			l.add(entry{units: cost, request: request})
		}
	}
	r.Early = l.early
	if l.units()+cost <= c.Max {
		return r, charged
	}
	r.Retry = l.roomIn(c, cost)
	if reset := c.Window - l.live()[len(l.live())-1].age; r.Retry > c.Window || !charged && reset > c.Window {
		for i := range l.live() {
			l.entries[i].age = max(0, l.entries[i].age)
		}
		r.Retry = l.roomIn(c, cost)
	}
	r.Retry = min(r.Retry, c.Window)
	return r, charged
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
	}
	l.early = len(l.live()) > 0 && c.Bug != NoMark
	return true
}
