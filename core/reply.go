package core

import (
	"fmt"
	"math"
	"time"

	"github.com/redis/rueidis"
)

// reply is what a script said to one or more requests that ask the same, first come first served. The contract is in
// lua/decide.lua.
type reply struct {
	granted   int
	remaining int64   // of the only log, if there is no list: all are granted, and there is room for one more
	logs      []int64 // remaining, retry and reset of each
}

// decode reads a reply to some requests, and refuses one that makes no sense.
func decode(message rueidis.RedisMessage, requests, cost int, limits []Limit) (reply, error) {
	if message.IsInt64() && len(limits) == 1 {
		remaining, err := message.AsInt64()
		if err != nil {
			return reply{}, err
		}
		return decodeInteger(remaining, requests, cost, limits[0])
	}
	list, err := message.AsIntSlice()
	if err != nil {
		return reply{}, err
	}
	return decodeList(list, requests, cost, limits)
}

func decodeInteger(remaining int64, requests, cost int, limit Limit) (reply, error) {
	if remaining < 1 || remaining > int64(limit.Max-requests*cost) {
		return reply{}, fmt.Errorf("reply %d to %d requests of cost %d to limit %q of %d", remaining, requests, cost, limit.Name, limit.Max)
	}
	return reply{granted: requests, remaining: remaining}, nil
}

func decodeList(list []int64, requests, cost int, limits []Limit) (reply, error) {
	if len(list) != 1+3*len(limits) || list[0] < 0 || list[0] > int64(requests) {
		return reply{}, fmt.Errorf("reply %d to %d requests of cost %d to %d limits", list, requests, cost, len(limits))
	}
	r := reply{granted: int(list[0]), logs: list[1:]}
	for i, limit := range limits {
		remaining, retry, reset := r.logs[3*i], r.logs[3*i+1], r.logs[3*i+2]
		most := int64(limit.Max - max(0, r.granted-1)*cost) // less one, as a reply to Peek grants without charging
		const longest = math.MaxInt64 / int64(time.Microsecond)
		if remaining > most || retry < 0 || retry > longest || reset < 0 || reset > longest {
			return reply{}, fmt.Errorf("reply %d to %d requests of cost %d to limit %q of %d", list, requests, cost, limit.Name, limit.Max)
		}
	}
	return r, nil
}

// decision is the answer to the request that came in the given place, of which 0 is the first.
func (r reply) decision(place, cost int, limits []Limit) Decision {
	allowed := place < r.granted
	if len(limits) == 1 {
		return Decision{Allowed: allowed, State: r.state(0, place, cost, limits[0]), Source: SourceRedis}
	}
	states := make([]State, len(limits))
	for i, limit := range limits {
		states[i] = r.state(i, place, cost, limit)
	}
	return decide(allowed, states, SourceRedis)
}

// state is where limit i stood after the request in a place, with those behind it still to come.
func (r reply) state(i, place, cost int, limit Limit) State {
	if r.logs == nil {
		behind := r.granted - 1 - place
		return State{Limit: limit, Remaining: int(r.remaining) + behind*cost, ResetAfter: limit.Window}
	}
	s := State{
		Limit:      limit,
		Remaining:  int(max(0, r.logs[3*i])),
		RetryAfter: time.Duration(r.logs[3*i+1]) * time.Microsecond,
		ResetAfter: time.Duration(r.logs[3*i+2]) * time.Microsecond,
	}
	if behind := r.granted - 1 - place; behind > 0 {
		s.Remaining += behind * cost
		s.RetryAfter = 0 // the next one was granted
	}
	return s
}
