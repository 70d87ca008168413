package model

// startSettling sends a settlement, for the first time or after an error.
func (c *Config) startSettling(s *state, i int) (broken string) {
	p := &s.requests[i].settlement
	p.settling = underWay
	if p.first == orphan {
		p.again = sent
	} else {
		p.first = sent
	}
	return ""
}

func (c *Config) executeSettlement(s *state, i int, m *message) (broken string) {
	r, cost, actual := &s.requests[i], c.Requests[i].Cost, c.Requests[i].Settle
	if r.phase == failed {
		actual = 0
	}
	r.settlement.answered = r.settlement.answered || *m == sent
	*m = none
	gaveBack := s.log.Settle(c, int8(i), cost, actual)
	if r.settlement.once {
		return ""
	}
	r.settlement.once = true
	if actual > cost {
		r.charge.more, r.charge.moreAge = actual-cost, 0
		return ""
	}
	r.charge.units = min(r.charge.units, actual)
	if gaveBack && !s.givenBack && !c.InFlight {
		s.givenBack = len(s.log.live()) > 0
		for j := range s.caches {
			s.caches[j].loose = c.Hold
		}
	}
	return ""
}

// changed tells the caller of a settlement, and lets its instance forget its denials.
func (c *Config) changed(s *state, i int, outcome settling) {
	instance := c.Requests[i].Instance
	s.requests[i].settlement.settling = outcome
	s.caches[instance] = cache{}
	for j := range c.Requests {
		if r := &s.requests[j]; c.Requests[j].Instance == instance && (r.phase == asked || r.phase == failed) {
			r.stale = true
		}
	}
}

func (c *Config) loseSettlement(s *state, i int) (broken string) {
	p := &s.requests[i].settlement
	s.cuts++
	retry := p.again != sent && 2*p.waited < c.Window
	p.answered = false
	p.first, p.again = c.cut(p.first), c.cut(p.again)
	if retry {
		p.again = sent
	} else {
		c.changed(s, i, unknown)
	}
	return ""
}
