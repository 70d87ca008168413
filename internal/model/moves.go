package model

import "fmt"

// move is what can happen next.
type move struct {
	what   string
	after  state
	broken string // the promise that it breaks, or ""
}

// moves returns all that can happen in a state.
func (c *Config) moves(s state) (moves []move) {
	add := func(what string, change func(*state) (broken string)) {
		after := s
		broken := change(&after)
		after.forget(c)
		moves = append(moves, move{what, after, broken})
	}
	waits := false // for time to pass
	for i := range c.Requests {
		r, name := &s.requests[i], fmt.Sprintf("request %d", i+1)
		if r.phase == idle {
			add(name+" is made", func(s *state) string { return c.ask(s, i) })
			break // the next is made after this one
		}
		waits = true
		if r.first != none {
			add(name+" is executed", func(s *state) string { return c.execute(s, i, &s.requests[i].first, false) })
		}
		if r.again != none {
			add(name+" is executed, as a retry", func(s *state) string {
				return c.execute(s, i, &s.requests[i].again, true)
			})
		}
		if r.reply.there {
			add(name+" gets its reply", func(s *state) string { return c.deliver(s, i) })
		}
		if s.cuts < c.Cuts && (r.first == sent || r.again == sent || r.reply.there) {
			add(name+" loses its connection", func(s *state) string { return c.lose(s, i) })
		}
		if s.giveUps < c.GiveUps && r.phase == asked {
			add("the caller of "+name+" gives up", func(s *state) string {
				s.giveUps++
				s.requests[i].phase = failed
				return ""
			})
		}
		p := &r.settlement
		if r.phase == granted && c.Requests[i].Settle >= 0 && p.settling == unsettled {
			add(name+" is settled", func(s *state) string { return c.startSettling(s, i) })
		}
		if p.settling == unknown && p.waited < c.Window {
			add(name+" is settled again, after an error", func(s *state) string { return c.startSettling(s, i) })
		}
		if p.first != none {
			add("the settlement of "+name+" is executed", func(s *state) string {
				return c.executeSettlement(s, i, &s.requests[i].settlement.first)
			})
		}
		if p.again != none {
			add("the settlement of "+name+" is executed, as a retry", func(s *state) string {
				return c.executeSettlement(s, i, &s.requests[i].settlement.again)
			})
		}
		if p.answered {
			add("the settlement of "+name+" gets its reply", func(s *state) string {
				s.requests[i].settlement.answered = false
				c.changed(s, i, done)
				return ""
			})
		}
		if s.cuts < c.Cuts && (p.first == sent || p.again == sent || p.answered) {
			add("the settlement of "+name+" loses its connection",
				func(s *state) string { return c.loseSettlement(s, i) })
		}
		if r.renewal != none {
			add("the renewal of "+name+" is executed", func(s *state) string { c.renew(s, i); return "" })
		}
	}
	for i := range s.killed {
		if waits && s.kills < c.Kills && !s.killed[i] {
			add(fmt.Sprintf("instance %d is killed", i), func(s *state) string { c.kill(s, i); return "" })
		}
	}
	if waits && !c.mustAnswer(&s) {
		add("a tick passes", func(s *state) string { c.tick(s); return "" })
		if s.steps < c.Steps {
			add("the clock steps forward", func(s *state) string { c.step(s, c.Step); return "" })
			add("the clock steps back", func(s *state) string { c.step(s, -c.Step); return "" })
		}
	}
	if live := s.log.live(); s.losses < c.Losses && len(live) > 0 {
		add("Redis loses its newest entry", func(s *state) string {
			s.log.replace(append([]entry(nil), live[:len(live)-1]...))
			s.losses++
			s.excess++
			return ""
		})
	}
	return moves
}

// held returns the units that the window should hold, in true time.
func (c *Config) held(s *state) (n int8) {
	for i := range s.requests {
		r := &s.requests[i].charge
		if r.age < c.Window {
			n += r.units
		}
		if r.moreAge < c.Window {
			n += r.more
		}
	}
	return n
}

// hasRoom reports whether a request should have been admitted.
func (c *Config) hasRoom(s *state, i int) bool {
	return !s.back && s.ban == 0 && c.held(s)+c.Requests[i].Cost <= c.Max
}

// ask makes a request, which the denial cache may answer.
func (c *Config) ask(s *state, i int) (broken string) {
	r, cache := &s.requests[i], &s.caches[c.Requests[i].Instance]
	if cache.left > 0 && (cache.cost == c.Requests[i].Cost || c.Bug == CacheIgnoresCost) {
		r.phase = denied
		switch {
		case c.Late || cache.loose > 0:
		case c.hasRoom(s, i):
			return "the denial cache denies while there is room"
		case c.Ban > 0 && s.ban == 0 && !s.back:
			return "the denial cache denies and begins no ban"
		}
		return ""
	}
	r.phase, r.first = asked, sent
	return ""
}

// execute lets the script answer an attempt.
func (c *Config) execute(s *state, i int, m *message, again bool) (broken string) {
	r, cost := &s.requests[i], c.Requests[i].Cost
	answered := *m == sent
	*m = none
	c.clean(s)
	reply, charged := s.log.Admit(c, int8(i), cost, again && c.Bug != LostGrant)
	if answered {
		r.reply = answer{reply, true}
	}
	switch {
	case !reply.Granted && c.hasRoom(s, i) && !c.Late:
		return "Redis denies while there is room"
	case !reply.Granted && s.ban == 0 && c.held(s)+cost > c.Max:
		s.ban = c.Ban
	}
	if !charged {
		return ""
	}
	if s.ban > 0 {
		return "a banned log admits"
	}
	r.charge, r.settlement.once = charge{units: cost}, false
	if c.held(s) > c.Max*(1+s.excess) {
		return fmt.Sprintf("a window holds %d units", c.held(s))
	}
	return ""
}

// clean removes the expired entries.
func (c *Config) clean(s *state) {
	s.log.clean(c)
	if len(s.log.live()) == 0 {
		s.back, s.givenBack = s.back && s.log.banned, false
	}
}

// deliver gives the reply to the caller, or gives the units back if it has given up, and to the denial cache.
func (c *Config) deliver(s *state, i int) (broken string) {
	r := &s.requests[i]
	reply := r.reply.Reply
	r.reply = answer{}
	r.again = orphaned(r.again) // there is none, unless the first attempt's reply came after all
	cache := &s.caches[c.Requests[i].Instance]
	left := min(reply.Sure(c), c.Hold) - r.age
	if c.Bug == HoldFromReply {
		left = min(reply.Sure(c), c.Hold)
	}
	if (!r.stale || c.Bug == LearnsOldDenials) && left > 0 {
		cache.left, cache.cost = left, c.Requests[i].Cost
	}
	charged := r.charge.units > 0
	switch {
	case r.phase == failed && reply.Granted:
		return c.startSettling(s, i)
	case r.phase == failed:
	case reply.Granted:
		r.phase, r.asked = granted, r.age
		c.sendRenewal(r)
		switch {
		case !charged && !c.Late:
			return "a caller is told of a grant that was not charged"
		case c.InFlight && c.running(s) > c.Max:
			return fmt.Sprintf("%d are in flight", c.running(s))
		}
	default:
		r.phase = denied
		if charged && !c.Late {
			return "a caller is told of a denial that was charged"
		}
	}
	return ""
}

func orphaned(m message) message {
	if m == sent {
		return orphan
	}
	return m
}

// lose loses the connection of a call, which is sent again once, if its caller still waits.
func (c *Config) lose(s *state, i int) (broken string) {
	r := &s.requests[i]
	s.cuts++
	retry := r.again == none && r.first == sent || r.reply.there
	wasAgain := r.again == sent
	r.reply = answer{}
	r.first, r.again = c.cut(r.first), c.cut(r.again)
	if retry && !wasAgain && r.phase == asked && 2*r.age < c.Window {
		r.again = sent
	}
	return ""
}

// cut returns what becomes of an attempt whose connection is lost.
func (c *Config) cut(m message) message {
	if c.Late {
		return orphaned(m)
	}
	return none
}

// tick lets a tick pass. An attempt that was not executed within a window is lost.
func (c *Config) tick(s *state) {
	s.log.Pass(1)
	oldest := c.Window + c.Step*c.Steps // all that is older is the same
	for i := range s.log.live() {
		s.log.entries[i].age = min(s.log.entries[i].age, oldest)
	}
	s.log.ban, s.ban = max(s.log.ban, -c.Step*c.Steps), max(0, s.ban-1)
	for i := range s.requests {
		r := &s.requests[i]
		if r.phase == idle {
			break
		}
		r.age = min(r.age+1, c.Window)
		r.charge.age, r.charge.moreAge = min(r.charge.age+1, c.Window), min(r.charge.moreAge+1, c.Window)
		if r.age == c.Window {
			r.first, r.again = none, none
		}
		if p := &r.settlement; p.settling != unsettled {
			if p.waited = min(p.waited+1, c.Window); p.waited == c.Window && !p.answered && p.settling != done {
				p.first, p.again, p.settling = none, none, done // with an error, and never again
			}
		}
		if r.first == none && r.again == none && !r.reply.there && r.phase == asked {
			r.phase = failed
		}
		if r.asked = min(r.asked+1, c.Window); r.asked == c.Window {
			r.renewal = none
		}
		c.sendRenewal(r)
	}
	for i := range s.caches {
		s.caches[i].left = max(0, s.caches[i].left-1)
		s.caches[i].loose = max(0, s.caches[i].loose-1)
	}
}

// step steps Redis's clock.
func (c *Config) step(s *state, by int8) {
	s.log.Pass(by)
	s.steps++
	if by > 0 {
		s.excess++
		s.ban = max(0, s.ban-by)
		for i := range s.caches {
			s.caches[i].loose = max(s.caches[i].loose, c.Hold*min(1, c.Ban)) // they do not know that a ban ends earlier
		}
	} else {
		s.back = true
	}
}
