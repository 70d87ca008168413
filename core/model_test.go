package core

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/model"
)

// The log that internal/model explores is the one that the script keeps: in random orders of requests, retries,
// settlements, renewals and steps of the clock, both give the same replies and hold the same entries.
func TestModelAgreesWithScript(t *testing.T) {
	for name, limit := range map[string]Limit{
		"plain":     {Name: "a", Max: 3, Window: 4 * time.Second},
		"ban":       {Name: "a", Max: 3, Window: 4 * time.Second, Ban: 6 * time.Second},
		"short ban": {Name: "a", Max: 3, Window: 4 * time.Second, Ban: 2 * time.Second},
		"in flight": InFlight("a", 3, 4*time.Second),
	} {
		t.Run(name, func(t *testing.T) { modelAgreesWithScript(t, limit) })
	}
}

func modelAgreesWithScript(t *testing.T, limit Limit) {
	redis := newClockedRedis(t)
	const tick = int64(time.Second / time.Microsecond)
	config := &model.Config{
		Max: int8(limit.Max), Window: int8(limit.Window / time.Second), Ban: int8(limit.Ban / time.Second),
		InFlight: limit.InFlight,
	}
	bans := 0
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		key, now, log := "walk "+string(rune('A'+seed)), 1000*tick, model.Log{}
		type granted struct {
			Decision
			request, cost int8
		}
		var unsettled, all []granted
		var trace []any
		for request := range int8(20) {
			switch random.IntN(9) {
			case 0, 1, 2:
				ticks := int8(random.IntN(3))
				now += int64(ticks) * tick
				log.Pass(ticks)
				trace = append(trace, "pass", ticks)
			case 3:
				ticks := int8(random.IntN(7) - 3)
				now += int64(ticks) * tick
				log.Pass(ticks)
				trace = append(trace, "step", ticks)
			case 4:
				if len(unsettled) == 0 {
					continue
				}
				i := random.IntN(len(unsettled))
				g, actual := unsettled[i], int8(random.IntN(4))
				unsettled = slices.Delete(unsettled, i, i+1)
				if limit.InFlight {
					actual = 0
				}
				if actual == g.cost {
					continue // the limiter does not ask
				}
				trace = append(trace, "settle", g.request, actual)
				log.Settle(config, g.request, g.cost, actual)
				q := redis.settling(g.Decision, int(actual))
				redis.ask(t, now, q)
				if random.IntN(2) == 0 {
					redis.askAgain(t, now)
				}
				require.NoError(t, q.answer.err)
			case 5:
				if len(all) == 0 || !limit.InFlight {
					continue
				}
				q := redis.question(renew, key, 1, limit)
				for range 1 + random.IntN(2) { // released or not
					g := all[random.IntN(len(all))]
					trace = append(trace, "renew", g.request)
					q.members = append(q.members, redis.renewing(g.Decision).members...)
					log.Renew(config, g.request, g.cost)
				}
				redis.ask(t, now, q)
				require.NoError(t, q.answer.err)
			default:
				cost := int8(1 + random.IntN(2))
				trace = append(trace, "ask", request, cost)
				reply, _ := log.Admit(config, request, cost, false)
				q := redis.question(admit, key, int(cost), limit)
				redis.ask(t, now, q)
				if random.IntN(3) == 0 {
					trace = append(trace, "again")
					reply, _ = log.Admit(config, request, cost, true)
					redis.askAgain(t, now)
				}
				d := redis.decision(t, q)
				require.Equal(t, reply.Granted, d.Allowed, "seed %d: %v", seed, trace)
				retry, banned := time.Duration(reply.Retry)*time.Second, !reply.Granted && reply.Ban > 0
				switch {
				case banned:
					bans++
					retry = max(retry, time.Duration(reply.Ban)*time.Second)
				case limit.InFlight:
					retry = min(retry, time.Second) // when there is room is not known
				}
				require.Equal(t, retry, d.RetryAfter, "seed %d: %v", seed, trace)
				require.Equal(t, banned, d.Banned, "seed %d: %v", seed, trace)
				if q.answer.logs != nil && (reply.Retry > 0 || banned) {
					sure := time.Duration(reply.Sure(config)) * time.Second
					require.Equal(t, sure, q.answer.denialTTL(q.limits), "seed %d: %v", seed, trace)
				}
				if d.Allowed {
					unsettled, all = append(unsettled, granted{d, request, cost}),
						append(all, granted{d, request, cost})
				}
			}
			var entries [][2]int
			for member, at := range redis.entries(t, key, limit) {
				if age := int((now - at) / tick); age < int(config.Window) {
					entries = append(entries, [2]int{age, int(weightOf(t, member))})
				}
			}
			require.Equal(t, sorted(live(log.Entries(), int(config.Window))), sorted(entries),
				"seed %d: %v", seed, trace)
		}
	}
	require.Equal(t, limit.Ban > 0, bans > 0)
}

// live returns the entries that have not expired: when the others are removed is not part of the contract.
func live(entries [][2]int, window int) [][2]int {
	return slices.DeleteFunc(entries, func(e [2]int) bool { return e[0] >= window })
}

func sorted(entries [][2]int) [][2]int {
	slices.SortFunc(entries, func(a, b [2]int) int { return cmp.Or(a[0]-b[0], a[1]-b[1]) })
	return append([][2]int{}, entries...)
}
