package core

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// lossy loses a share of the replies of the script, after it has done its work, and of the calls before. Each call
// waits for a while of up to a pause, so that others gather.
func lossy(share float64, pause time.Duration) redistest.Hook {
	return redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if pause > 0 {
			time.Sleep(rand.N(pause))
		}
		chance := rand.Float64()
		if chance < share/4 {
			return rueidis.NewErrorResult(io.EOF)
		}
		result := send()
		if chance < share {
			return rueidis.NewErrorResult(io.EOF)
		}
		return result
	})
}

// operation is a call of the history. The cost of a Settle is the difference that it charges, negative if it gives
// units back, and that of a Reset or Peek is nothing.
type operation struct {
	do   string
	cost int
}

type told struct {
	allowed   bool
	remaining int
}

// counted is the state of a log.
type counted struct {
	used   int
	banned bool
}

// counter is what a log is while nothing leaves it by age and no ban ends. What remains is that of the moment when the
// reply went out, which is another than that of the decision where the first reply was lost, or came from a cache.
func counter(limit Limit, exact bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return counted{} },
		Step: func(state, input, output any) (bool, any) {
			log, in, out := state.(counted), input.(operation), output.(told)
			room := limit.Max - log.used
			if log.banned {
				room = 0
			}
			switch {
			case in.do == "reset":
				return true, counted{}
			case in.do == "settle":
				log.used += in.cost
				return log.used >= 0, log
			case in.do == "peek":
				return out == told{room > 0, max(0, room)}, log
			case in.cost <= room:
				log.used += in.cost
				return out.allowed && (!exact || out.remaining == room-in.cost), log
			case limit.Ban > 0:
				log.banned, room = true, 0
			}
			return !out.allowed && (!exact || out.remaining == max(0, room)), log
		},
	}
}

// Calls of several instances at once come to what some order of them, one after the other, would have come to. That is
// so with calls that share a trip and requests that share a question, with any cost, with Peeks, Resets and Settles
// among them, and where replies are lost and denials cached.
func TestLinearizable(t *testing.T) {
	redistest.Long(t)
	const huge = min(maxMax, math.MaxInt) / 10
	for _, mode := range []struct {
		name        string
		others      []string // beside Allow
		lossy       bool
		provisional bool
		ban         time.Duration
		inFlight    bool // and a settle is a release
		crowded     bool // by others, on whose calls the callers wait so that they are asked together
		callers     int  // in each instance
		calls       int  // of each
		unit        int  // of all costs
	}{
		{name: "resets", others: []string{"reset", "peek"}, callers: 3, calls: 8, unit: 1},
		{name: "crowd", others: []string{"peek"}, crowded: true, callers: 5, calls: 6, unit: 1},
		{name: "crowd with resets", others: []string{"reset", "peek"}, crowded: true, callers: 5, calls: 6, unit: huge},
		{
			name: "crowd with settles", others: []string{"settle", "peek"}, crowded: true,
			callers: 5, calls: 6, unit: huge,
		},
		{name: "lossy", lossy: true, callers: 3, calls: 8, unit: huge},
		{name: "lossy crowd", lossy: true, crowded: true, callers: 5, calls: 4, unit: 1},
		{name: "bans", others: []string{"settle", "peek"}, ban: time.Hour, callers: 3, calls: 8, unit: 1},
		{name: "crowd with bans", others: []string{"reset", "peek"}, ban: time.Hour,
			crowded: true, callers: 5, calls: 6, unit: huge},
		{name: "lossy bans", others: []string{"settle"}, lossy: true, provisional: true, ban: time.Hour,
			callers: 3, calls: 8, unit: 1},
		// Units given back are seen by other instances, whose caches know nothing of it, if they were charged
		// provisionally.
		{
			name: "lossy settles", others: []string{"settle"}, lossy: true, provisional: true,
			callers: 3, calls: 6, unit: huge,
		},
		{
			name: "lossy crowd with settles", others: []string{"settle"}, lossy: true, provisional: true, crowded: true,
			callers: 5, calls: 4, unit: 1,
		},
		{
			name: "lossy in flight", others: []string{"settle", "peek"}, lossy: true, inFlight: true,
			callers: 3, calls: 6, unit: 1,
		},
		{name: "in flight", others: []string{"settle", "peek"}, inFlight: true, callers: 3, calls: 8, unit: huge},
	} {
		t.Run(mode.name, func(t *testing.T) {
			shared, checked := 0, 0
			for round := range 12 {
				limit := PerHour("linear", 5+3*round)
				if mode.unit > 1 {
					limit.Max = (3 + round%8) * mode.unit
				}
				limit.Ban = mode.ban
				limit.InFlight = mode.inFlight
				opts := []Option{WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed)}
				share := 0.15 // ten in a row, which is when a call gives up, are not to be expected
				if !mode.lossy {
					share = 0
					opts = append(opts, WithDenialCache(0, 0))
				}
				pause := time.Duration(0)
				if mode.crowded {
					pause = 2 * time.Millisecond
				}
				var mu sync.Mutex
				var history []porcupine.Operation
				var all, others sync.WaitGroup
				ctx, stop := context.WithCancel(t.Context())
				start := time.Now()
				for instance := range 2 {
					limiter := newOver(t, redistest.Shared(t).Hooked(t, lossy(share, pause)), opts...)
					if mode.provisional {
						limiter = limiter.Provisional()
					}
					if mode.crowded {
						for range 12 {
							others.Go(func() {
								for ctx.Err() == nil {
									limiter.Allow(context.Background(), fmt.Sprint(rand.Int()), limit)
								}
							})
						}
					}
					for caller := range mode.callers {
						all.Go(func() {
							random := rand.New(rand.NewPCG(uint64(round), uint64(100*instance+caller)))
							var admitted []Decision
							for range mode.calls {
								in, out := operation{do: "allow", cost: (1 + random.IntN(2)) * mode.unit}, told{}
								if len(mode.others) > 0 && random.IntN(4) == 0 {
									in.do = mode.others[random.IntN(len(mode.others))]
								}
								var paid Decision
								actual := 0
								if in.do == "settle" {
									if len(admitted) == 0 {
										continue
									}
									i := random.IntN(len(admitted))
									paid = admitted[i]
									admitted = slices.Delete(admitted, i, i+1)
									if !mode.inFlight {
										actual = []int{0, 0, 1, 3, 4}[random.IntN(5)] * mode.unit
									}
									in.cost = actual - paid.receipt.cost
								}
								call := time.Since(start)
								var d Decision
								var err error
								switch in.do {
								case "reset":
									err = limiter.Reset(t.Context(), "ann", limit)
								case "settle":
									if err = limiter.Settle(t.Context(), paid, actual); err == nil && mode.inFlight {
										err = limiter.Release(t.Context(), paid)
									}
								case "peek":
									d, err = limiter.Peek(t.Context(), "ann", limit)
								default:
									d, err = limiter.AllowN(t.Context(), "ann", in.cost, limit)
								}
								came := time.Since(start)
								assert.NoError(t, err)
								if in.do == "allow" || in.do == "peek" {
									out = told{d.Allowed, d.Remaining}
								}
								if in.do == "allow" && d.Allowed {
									admitted = append(admitted, d)
								}
								mu.Lock()
								if d.receipt.granted > 1 {
									shared++
								}
								history = append(history, porcupine.Operation{
									ClientId: 100*instance + caller,
									Input:    in, Call: int64(call), Output: out, Return: int64(came),
								})
								mu.Unlock()
							}
						})
					}
				}
				all.Wait()
				stop()
				others.Wait()
				// There are histories of a crowd whose orders are too many to be looked through.
				result := porcupine.CheckOperationsTimeout(counter(limit, !mode.lossy), history, 2*time.Second)
				if result == porcupine.Ok {
					checked++
				}
				if !assert.NotEqual(t, porcupine.Illegal, result) {
					for _, o := range history {
						t.Logf("%d-%d client %d: %+v %+v", o.Call, o.Return, o.ClientId, o.Input, o.Output)
					}
					t.FailNow()
				}
			}
			t.Log(shared, "admissions shared an entry,", checked, "histories were looked through")
			assert.Positive(t, checked)
			if mode.crowded {
				assert.Positive(t, shared, "no requests were asked together, so this shows nothing of it")
			}
		})
	}
}
