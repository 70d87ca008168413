// Package oracle is the sliding window log in the most naive form there is, to check the real ones against. It shares
// no code with them, keeps everything, and looks through all of it each time.
package oracle

// Log is every admission ever made, and the last ban.
type Log struct {
	Admitted []Admission
	BanEnds  int64 // the moment in microseconds at which the log admits again
}

// Admission is some units, and the moment in microseconds at which they were admitted.
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

// Banned reports whether nothing may be admitted, whatever the log holds.
func (l *Log) Banned(now int64) bool { return now < l.BanEnds }

// Deny bans the log if it is the reason, or one of the reasons, why cost units are denied, and is not banned yet.
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

// Admit enters cost units and returns the index of their admission.
func (l *Log) Admit(now int64, cost int) int {
	l.Admitted = append(l.Admitted, Admission{now, cost})
	return len(l.Admitted) - 1
}

// Refund takes the units of an admission away.
func (l *Log) Refund(admission int) { l.Admitted[admission].Units = 0 }

// Renew moves an admission to now, if it still counts.
func (l *Log) Renew(admission int, now, window int64) {
	if a := &l.Admitted[admission]; a.At > now-window {
		a.At = now
	}
}

// Settle makes an admission of charged units one that has cost so many. What it has cost beyond its charge counts from
// now, be the admission there still or not.
func (l *Log) Settle(admission int, now int64, charged, cost int) {
	if cost < charged && l.Admitted[admission].Units > 0 {
		l.Admitted[admission].Units = cost
	} else if cost > charged {
		l.Admit(now, cost-charged)
	}
}

// Empty takes everything away, the ban too.
func (l *Log) Empty() {
	for i := range l.Admitted {
		l.Refund(i)
	}
	l.BanEnds = 0
}

// Retry returns how long it takes until cost units fit, looking at each moment at which something leaves or the ban
// ends.
func (l *Log) Retry(now, window int64, cost, max int) int64 {
	if l.Fits(now, window, cost, max) {
		return 0
	}
	first := int64(-1)
	for _, a := range append([]Admission{{At: l.BanEnds - window}}, l.Admitted...) {
		leaves := a.At + window
		if leaves > now && l.Fits(leaves, window, cost, max) && (first < 0 || leaves-now < first) {
			first = leaves - now
		}
	}
	return first
}

// Reset returns how long it takes until nothing is left, and no ban.
func (l *Log) Reset(now, window int64) int64 {
	last := max(0, l.BanEnds-now)
	for _, a := range l.Admitted {
		if a.Units > 0 {
			last = max(last, a.At+window-now)
		}
	}
	return last
}

// Most returns the most units that any window holds.
func (l *Log) Most(window int64) int {
	spans := make([]Span, len(l.Admitted))
	for i, a := range l.Admitted {
		spans[i] = Span{a.At, a.At, a.Units}
	}
	return Most(spans, window)
}
