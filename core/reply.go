package core

import (
	"fmt"
	"math"
	"time"
)

// decodeInteger makes the decision of the scripts' short reply: one limit, admitted, with units to spare.
func decodeInteger(remaining int64, limit Limit) (Decision, error) {
	if remaining < 1 || remaining >= int64(limit.Max) {
		return Decision{}, fmt.Errorf("reply %d to limit %q of %d", remaining, limit.Name, limit.Max)
	}
	return Decision{
		Allowed: true,
		State:   State{Limit: limit, Remaining: int(remaining), ResetAfter: limit.Window},
		Source:  SourceRedis,
	}, nil
}

// decodeList makes the decision of the scripts' full reply to one request. The contract is in lua/decide.lua.
func decodeList(reply []int64, limits []Limit) (Decision, error) {
	if len(reply) != 1+3*len(limits) || reply[0] < 0 || reply[0] > 1 {
		return Decision{}, fmt.Errorf("reply %d to %d limits", reply, len(limits))
	}
	allowed := reply[0] == 1
	if len(limits) == 1 {
		state, err := decodeState(reply[1:], limits[0])
		if err != nil {
			return Decision{}, err
		}
		return Decision{Allowed: allowed, State: state, Source: SourceRedis}, nil
	}
	states := make([]State, len(limits))
	for i, limit := range limits {
		var err error
		if states[i], err = decodeState(reply[1+3*i:], limit); err != nil {
			return Decision{}, err
		}
	}
	return decide(allowed, states, SourceRedis), nil
}

func decodeState(reply []int64, limit Limit) (State, error) {
	remaining, retry, reset := reply[0], reply[1], reply[2]
	const longest = math.MaxInt64 / int64(time.Microsecond)
	if remaining > int64(limit.Max) || retry < 0 || retry > longest || reset < 0 || reset > longest {
		return State{}, fmt.Errorf("reply %d to limit %q of %d", reply, limit.Name, limit.Max)
	}
	return State{
		Limit:      limit,
		Remaining:  int(max(0, remaining)),
		RetryAfter: time.Duration(retry) * time.Microsecond,
		ResetAfter: time.Duration(reset) * time.Microsecond,
	}, nil
}
