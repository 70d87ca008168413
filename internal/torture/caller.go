package torture

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// caller is a goroutine that calls the limiter.
type caller struct {
	*Callers
	keys            [][]string    // of each use
	limiter, giving *core.Limiter // giving is for uses that give units back
	local           *localWindows
	random          *rand.Rand
	shares          int
	tally           Tally
}

func (c *caller) call() {
	u, drawn := 0, c.random.IntN(c.shares)
	for drawn >= c.Uses[u].Share {
		drawn -= c.Uses[u].Share
		u++
	}
	use := &c.Uses[u]
	k, cost := c.random.IntN(use.Keys), use.Costs[c.random.IntN(len(use.Costs))]
	limiter, units := c.limiter, &c.tally.Units[u][k]
	if use.Returned > 0 {
		limiter = c.giving
	}
	sent := time.Now()
	d, err := limiter.AllowN(context.Background(), c.keys[u][k], cost, use.Limits...)
	outcome := outcomeOf(d, err)
	c.tally.Outcomes[outcome]++
	if d.Allowed && use.Returned > 0 && c.random.Float64() < use.Returned {
		actual := 0
		if use.Settled {
			actual = c.random.IntN(2*cost + 1)
		}
		err := limiter.Settle(context.Background(), d, actual)
		if outcome == Admitted {
			units.settled(int64(actual-cost), time.Since(sent), use.shortest(), err)
		}
	}
	switch outcome {
	case Admitted:
		units.Told += int64(cost)
		return
	case Undecided:
		units.Unknown += int64(cost)
	case InProcess:
		units.Unknown += int64(cost)
		if d.Allowed && use.Returned == 0 {
			c.local.admitted(u, k, cost, sent, time.Now())
		}
	}
	time.Sleep(time.Duration(c.random.Int64N(int64(2*c.Pause) + 1)))
}

func outcomeOf(d core.Decision, err error) Outcome {
	switch {
	case err != nil:
		return Undecided
	case d.Source == core.SourceDenialCache:
		return Cached
	case d.Source != core.SourceRedis:
		return InProcess
	case d.Allowed:
		return Admitted
	}
	return Denied
}
