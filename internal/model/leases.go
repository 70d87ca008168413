package model

// running returns how many units the requests have whose handlers run.
func (c *Config) running(s *state) (n int8) {
	for i := range s.requests {
		if s.requests[i].runs() {
			n += c.Requests[i].Cost
		}
	}
	return n
}

// sendRenewal sends the renewal of a lease of which a third has passed since the last.
func (c *Config) sendRenewal(r *request) {
	every := max(1, c.Window/3)
	if c.Bug == RenewedLate {
		every = c.Window
	}
	runs := r.runs() || c.Bug == DeadRenewed && r.phase == dead && r.settlement.settling == unsettled &&
		r.charge.units > 0
	if c.InFlight && runs && r.renewal == none && r.asked >= every {
		r.renewal, r.asked = sent, 0
	}
}

// renew executes the renewal of a lease.
func (c *Config) renew(s *state, i int) {
	r := &s.requests[i]
	should := r.renewal == orphan || r.phase != dead
	r.renewal = none
	s.log.Renew(c, int8(i), c.Requests[i].Cost)
	if should && r.charge.units > 0 && r.charge.age < c.Window {
		r.charge.age = 0
	}
}

// mustAnswer reports whether Redis has to answer before a tick passes, so that no lease ends of what runs.
func (c *Config) mustAnswer(s *state) bool {
	for i := range s.requests {
		r := &s.requests[i]
		awaits := r.phase == asked && r.reply.there || r.runs() && r.renewal == sent
		if c.InFlight && awaits && r.charge.age+1 >= c.Window {
			return true
		}
	}
	return false
}

// kill kills an instance. What it has sent is still on its way.
func (c *Config) kill(s *state, instance int) {
	s.kills++
	s.killed[instance] = true
	s.caches[instance] = cache{}
	for i := range c.Requests {
		if r := &s.requests[i]; c.Requests[i].Instance == instance {
			r.phase, r.reply = dead, answer{}
			r.first, r.again, r.renewal = orphaned(r.first), orphaned(r.again), orphaned(r.renewal)
			p := &r.settlement
			p.first, p.again, p.answered = orphaned(p.first), orphaned(p.again), false
			if p.settling == unknown {
				p.settling = underWay // and never again
			}
		}
	}
}
