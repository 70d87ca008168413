package model

// state is all that matters of one moment. Times are relative to now, so that two moments at which the same may follow
// are one state.
type state struct {
	log       Log
	requests  [maxRequests]request
	caches    [2]cache
	cuts      int8 // so far
	giveUps   int8 // so far
	losses    int8 // so far
	steps     int8 // so far
	excess    int8 // k: how often data was lost, or the clock stepped forward
	ban       int8 // ticks of true time for which the log should be banned
	kills     int8 // so far
	killed    [2]bool
	givenBack bool // units were given back, and the log has not been empty since
	back      bool // the clock was stepped back, and the log has not been empty since
}

// request is a request, what it knows, and what it should have been charged.
type request struct {
	phase      phase
	age        int8 // ticks since it was sent
	first      message
	again      message
	reply      answer
	stale      bool // units of the key were given back while it was on its way, so its denial must not be cached
	charge     charge
	settlement settlement
	renewal    message // of its lease
	asked      int8    // ticks since the last renewal was sent or, before one was, the request
}

// runs reports whether the handler of a request in flight runs.
func (r *request) runs() bool { return r.phase == granted && r.settlement.settling == unsettled }

// phase is what the caller of a request knows.
type phase int8

const (
	idle phase = iota // it was not made yet
	asked
	granted
	denied
	failed // the caller got an error
	dead   // its instance was killed
)

// message is an attempt of a call.
type message int8

const (
	none   message = iota // not sent, executed, or lost before it was
	sent                  // on its way to Redis
	orphan                // on its way, but nothing will be read from its connection
)

// answer is a reply on its way.
type answer struct {
	Reply
	there bool
}

// charge is what a request should weigh, and since when, in ticks of true time.
type charge struct {
	units, age    int8
	more, moreAge int8 // the difference when it was settled
}

// settlement is the call that settles a request.
type settlement struct {
	settling settling
	waited   int8 // ticks since it was first sent
	first    message
	again    message
	answered bool // the reply is on its way
	once     bool // it has taken effect, and must not again
}

// settling is what the caller of a settlement knows.
type settling int8

const (
	unsettled settling = iota
	underWay
	unknown // the caller got an error, and may settle again
	done
)

// cache is a denial cache, with a place for one denial.
type cache struct {
	left  int8 // ticks for which the denial is used, 0 if there is none
	cost  int8
	loose int8 // ticks for which another instance's first give-back, or a step of the clock, explains a denial
}

// forget clears what does not matter any more, so that fewer states differ.
func (s *state) forget(c *Config) {
	for i := range s.requests {
		r := &s.requests[i]
		answered := r.phase >= granted
		if r.first == none && r.again == none && !r.reply.there && answered {
			r.age, r.stale = 0, false
			if r.charge.age >= c.Window {
				r.charge.units, r.charge.age = 0, 0
			}
		}
		if r.charge.moreAge >= c.Window {
			r.charge.more, r.charge.moreAge = 0, 0
		}
		if r.charge.units == 0 {
			r.charge.age = 0
		}
		if r.renewal == none && !r.runs() {
			r.asked = 0
		}
		if p := &r.settlement; p.settling == done && p.first == none && p.again == none {
			r.settlement = settlement{settling: done, once: p.once && c.Late}
		}
	}
	for i := range s.caches {
		if s.caches[i].left == 0 {
			s.caches[i].cost = 0
		}
	}
}
