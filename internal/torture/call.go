package torture

import (
	"time"
)

// Call is what one caller saw of one call under one limit. Times are microseconds of the machine's clock.
type Call struct {
	Key          string
	Cost         int // units; 0 is 1
	Sent, Came   int64
	Allowed      bool
	Banned       bool       // denied because of a ban, if the call has one limit
	Source       string     // core.Source as text
	States       [][2]int64 `json:",omitempty"` // of a denial: retry and reset under each limit, in microseconds
	Retry, Reset int64      `json:"-"`          // under this limit
	// Elsewhere marks a denial that this limit need not have caused, since another limit of the call may have.
	Elsewhere bool        `json:"-"`
	Err       string      `json:",omitempty"`
	Settled   *Settlement `json:",omitempty"` // nil if the call was not settled
	// Of a request in flight: when its handler returned, and when it was released.
	Ends, Ended int64 `json:",omitempty"`
}

// Settlement is what a call was settled to after it was admitted.
type Settlement struct {
	Cost int
	Came int64  // when Settle returned
	Err  string `json:",omitempty"`
}

// Redis and Cache are the sources of decisions that tell of the log in Redis. Other sources decide without it, perhaps
// after Redis was asked.
const (
	Redis = "redis"
	Cache = "denial-cache"
)

// under returns what the caller saw of one of the limits.
func (c Call) under(limit int) Call {
	if len(c.States) == 0 {
		return c
	}
	c.Retry, c.Reset = c.States[limit][0], c.States[limit][1]
	c.Elsewhere = len(c.States) > 1 && (c.shared() || c.Retry <= 1 && c.longest() > 1)
	return c
}

// shared reports whether one of several limits denied the call, and which of them is not known: none says that it has
// no room. That is so after a retry, if an earlier attempt denied the call and there has been room since. The script
// then says of each limit that a request has room in a microsecond, as of one limit: see foundedInRedis.
func (c Call) shared() bool { return len(c.States) > 1 && c.longest() == 1 }

// longest returns the longest retry of all limits.
func (c Call) longest() (retry int64) {
	for _, state := range c.States {
		retry = max(retry, state[0])
	}
	return retry
}

func (c Call) cost() int { return max(1, c.Cost) }

// known reports whether the caller knows what Redis decided, which an error and the decision of another source hide.
func (c Call) known() bool { return c.Err == "" && (c.Source == Redis || c.Source == Cache) }

func (c Call) took() time.Duration { return time.Duration(c.Came-c.Sent) * time.Microsecond }

func (c Call) outcome() string {
	switch {
	case c.Err != "":
		return c.Err
	case c.Allowed:
		return "allowed by " + c.Source
	}
	return "denied by " + c.Source
}

// shifted returns the call as it was by a clock that is ahead.
func (c Call) shifted(by int64) Call {
	c.Sent, c.Came = c.Sent+by, c.Came+by
	return c
}
