// Package oracle is a naive sliding window log, with which tests compare the real ones. It shares no code with them,
// keeps all admissions, and reads all of them for each decision.
package oracle

// Log is all admissions, and the last ban. The zero Log is empty.
type Log struct {
	Admitted []Admission
	BanEnds  int64 // the time in microseconds from which the log admits again
}

// Admission is a number of units, and the time in microseconds at which they were admitted.
type Admission struct {
	At    int64
	Units int
}

// Count returns how many units were admitted in (now-window, now].
func (l *Log) Count(now, window int64) int {
	n := 0
	for _, a := range l.Admitted {
		if a.At > now-window && a.At <= now {
			n += a.Units
		}
	}
	return n
}

// Fits reports whether cost more units may be admitted now.
func (l *Log) Fits(now, window int64, cost, max int) bool {
	return !l.Banned(now) && l.Count(now, window)+cost <= max
}

// Banned reports whether a ban denies all requests now.
func (l *Log) Banned(now int64) bool { return now < l.BanEnds }

// Deny begins a ban if the log has no room for cost units and is not banned yet.
func (l *Log) Deny(now, window int64, cost, max int, ban int64) {
	if !l.Fits(now, window, cost, max) && !l.Banned(now) && ban > 0 {
		l.BanEnds = now + ban
	}
}

// Remaining returns how many units may still be admitted now.
func (l *Log) Remaining(now, window int64, max int) int {
	if l.Banned(now) || l.Count(now, window) > max {
		return 0
	}
	return max - l.Count(now, window)
}

// Admit adds an admission of cost units and returns its index.
func (l *Log) Admit(now int64, cost int) int {
	l.Admitted = append(l.Admitted, Admission{now, cost})
	return len(l.Admitted) - 1
}

// Refund removes the units of an admission.
func (l *Log) Refund(admission int) { l.Admitted[admission].Units = 0 }

// Renew moves an admission to now, if it still counts.
func (l *Log) Renew(admission int, now, window int64) {
	if a := &l.Admitted[admission]; a.At > now-window {
		a.At = now
	}
}

// Settle changes an admission of charged units to cost units. Units beyond the charge count from now, even if the
// admission has expired.
func (l *Log) Settle(admission int, now int64, charged, cost int) {
	if cost < charged && l.Admitted[admission].Units > 0 {
		l.Admitted[admission].Units = cost
	} else if cost > charged {
		l.Admit(now, cost-charged)
	}
}

// Empty removes all units and the ban.
func (l *Log) Empty() {
	for i := range l.Admitted {
		l.Refund(i)
	}
	l.BanEnds = 0
}

// Retry returns the time until cost units fit. It tries each time at which an admission expires or the ban ends.
func (l *Log) Retry(now, window int64, cost, max int) int64 {
	if l.Fits(now, window, cost, max) {
		return 0
	}
	first := int64(-1)
	for _, a := range append([]Admission{{At: l.BanEnds - window}}, l.Admitted...) {
		expires := a.At + window
		if expires > now && l.Fits(expires, window, cost, max) && (first < 0 || expires-now < first) {
			first = expires - now
		}
	}
	return first
}

// Reset returns the time until the log is empty and has no ban.
func (l *Log) Reset(now, window int64) int64 {
	last := max(0, l.BanEnds-now)
	for _, a := range l.Admitted {
		if a.Units > 0 {
			last = max(last, a.At+window-now)
		}
	}
	return last
}

// Most returns the most units in any window.
func (l *Log) Most(window int64) int {
	spans := make([]Span, len(l.Admitted))
	for i, a := range l.Admitted {
		spans[i] = Span{a.At, a.At, a.Units}
	}
	return Most(spans, window)
}
