package core

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// lossy is a client that loses a share of the replies of the decision script, after it has done its work.
type lossy struct {
	rueidis.Client
	share float64
}

func (l lossy) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	decision := words[0] == "EVALSHA" && words[len(words)-1] != "" // and not a probe
	result := l.Client.Do(ctx, cmd)
	if decision && rand.Float64() < l.share {
		return rueidis.NewErrorResult(io.EOF)
	}
	return result
}

// asked is a call of the history: a Reset when the cost is 0.
type asked struct{ cost int }

type told struct {
	allowed   bool
	remaining int
}

// counter is what a log is while nothing leaves it by age. What remains is that of the moment when the reply went out, which
// is another than that of the decision where the first reply was lost, or came from a cache.
func counter(max int, exact bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			used, in, out := state.(int), input.(asked), output.(told)
			switch {
			case in.cost == 0:
				return true, 0
			case used+in.cost <= max:
				return out.allowed && (!exact || out.remaining == max-used-in.cost), used + in.cost
			}
			return !out.allowed && (!exact || out.remaining == max-used), used
		},
	}
}

// Calls of several instances at once come to what some order of them, one after the other, would have come to. That is so
// with Resets among them, and where replies are lost and denials cached.
func TestLinearizable(t *testing.T) {
	for _, lossless := range []bool{true, false} {
		for round := range 30 {
			limit := PerHour("linear", 5+round)
			opts := []Option{WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed)}
			share := 0.15 // ten in a row, which is when a call gives up, are not to be expected
			if lossless {
				share = 0
				opts = append(opts, WithDenialCache(0, 0))
			}
			var mu sync.Mutex
			var history []porcupine.Operation
			var all sync.WaitGroup
			start := time.Now()
			for instance := range 2 {
				limiter, err := New(lossy{redistest.Shared(t).Client(t), share}, opts...)
				require.NoError(t, err)
				defer limiter.Close()
				for caller := range 3 {
					all.Go(func() {
						random := rand.New(rand.NewPCG(uint64(round), uint64(10*instance+caller)))
						for range 8 {
							in, out := asked{1 + random.IntN(2)}, told{}
							if lossless && random.IntN(6) == 0 {
								in.cost = 0
							}
							call := time.Since(start)
							if in.cost == 0 {
								assert.NoError(t, limiter.Reset(t.Context(), "ann", limit))
							} else {
								d, err := limiter.AllowN(t.Context(), "ann", in.cost, limit)
								assert.NoError(t, err)
								out = told{d.Allowed, d.Remaining}
							}
							back := time.Since(start)
							mu.Lock()
							history = append(history, porcupine.Operation{
								ClientId: 10*instance + caller, Input: in, Call: int64(call), Output: out, Return: int64(back),
							})
							mu.Unlock()
						}
					})
				}
			}
			all.Wait()
			assert.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(counter(limit.Max, lossless), history, 20*time.Second), "lossless: %v", lossless)
		}
	}
}
