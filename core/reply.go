package core

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/redis/rueidis"
)

// answer is the script's answer to one question, which may stand for several requests. The head of lua/decide.lua
// describes the replies that it is decoded from.
type answer struct {
	err error // of this question alone, for example because a key does not hold a log

	unanswered  bool    // the script did not get to the question
	granted     int     // how many requests are granted, from position 0
	logs        []int64 // remaining, retry and reset of each log; nil if the answer is an integer
	bans        []int64 // microseconds until the ban of each log ends, or 0; nil if none is banned
	remaining   int64   // of the only log, if the answer is an integer
	mayEndEarly bool    // a log that is not banned may have room before retry, because units may be given back

	call     *call
	question int32 // the number of the question in the call, from 1
}

// decode decodes the script's answer to a question that stands for the given number of requests. It returns an error if
// the answer is malformed or is itself an error.
func decode(message rueidis.RedisMessage, requests int, q *question) (answer, error) {
	switch {
	case message.IsInt64():
		n, err := message.AsInt64()
		switch {
		case err != nil:
			return answer{}, err
		case n == -1:
			return answer{unanswered: true}, nil
		case q.verb == settle || q.verb == renew || q.verb == reset:
			return answer{}, nil
		case q.verb == admit && len(q.limits) == 1:
			return decodeInteger(n, requests, q)
		}
		return answer{}, fmt.Errorf("answer %d to %d limits", n, len(q.limits))
	case message.IsArray():
		list, err := message.AsIntSlice()
		if err != nil {
			return answer{}, err
		}
		return decodeList(list, requests, q)
	}
	text, err := message.ToString()
	if err != nil {
		return answer{}, err
	}
	return answer{}, errors.New(text)
}

// decodeInteger decodes an integer. It answers requests under one limit, and means that all of them are granted, and
// that the remaining units are enough for one more request.
func decodeInteger(remaining int64, requests int, q *question) (answer, error) {
	if remaining < 1 || remaining > int64(q.limits[0].Max-requests*q.cost) {
		return answer{}, fmt.Errorf("answer %d to %d requests of cost %d to a limit of %d",
			remaining, requests, q.cost, q.limits[0].Max)
	}
	return answer{granted: requests, remaining: remaining}, nil
}

// decodeList decodes a list, which answers all other requests. It keeps the list.
func decodeList(list []int64, requests int, q *question) (answer, error) {
	n := 3 * len(q.limits)
	banned := len(list) == 1+n+len(q.limits)
	if len(list) != 1+n && !banned || list[0] < 0 || list[0] > int64(requests) {
		return answer{}, fmt.Errorf("answer %d to %d requests to %d limits", list, requests, len(q.limits))
	}
	a := answer{granted: int(list[0]), logs: list[1 : 1+n]}
	if banned {
		a.bans = list[1+n:]
	}
	for i, limit := range q.limits {
		remaining, retry, reset, ban := a.logs[3*i], a.logs[3*i+1], a.logs[3*i+2], a.ban(i)
		if retry < 0 {
			retry, a.logs[3*i+1] = -retry, -retry
			a.mayEndEarly = a.mayEndEarly || ban == 0
		}
		a.mayEndEarly = a.mayEndEarly || limit.InFlight && retry > 0
		maxRemaining := int64(limit.Max)
		if q.verb == admit {
			maxRemaining -= int64(a.granted * q.cost)
		}
		if remaining > maxRemaining && remaining <= int64(limit.Max) && len(q.limits) > 1 {
			// An earlier attempt was charged, but its entry in this log has expired.
			remaining, a.logs[3*i] = maxRemaining, maxRemaining
		}
		const longest = math.MaxInt64 / int64(time.Microsecond)
		if remaining > maxRemaining || retry > longest || reset < 0 || reset > longest || ban < 0 || ban > longest {
			return answer{}, fmt.Errorf("answer %d to %d requests of cost %d to a limit of %d",
				list, requests, q.cost, limit.Max)
		}
	}
	return a, nil
}

// ban returns how many microseconds the ban of log i still lasts, or 0.
func (a answer) ban(i int) int64 {
	if a.bans == nil {
		return 0
	}
	return a.bans[i]
}

// denialTTL returns how long a denial of one more request may be cached. It is zero if there is room, if units may be
// given back, or if asking Redis would begin a ban. So a limit with a Ban must be banned already. Units that are given
// back make no room in a banned log.
func (a answer) denialTTL(limits []Limit) time.Duration {
	if a.logs == nil || a.mayEndEarly {
		return 0
	}
	ttl := int64(0)
	for i := range limits {
		denies := a.ban(i) // for how many microseconds this limit denies
		if denies == 0 {
			if limits[i].Ban > 0 {
				return 0
			}
			denies = a.logs[3*i+1]
		}
		if denies > 0 && (ttl == 0 || denies < ttl) {
			ttl = denies // until then, every limit that denies now still denies
		}
	}
	return time.Duration(ttl) * time.Microsecond
}

// decision returns the decision on the request at a position among the requests of the question.
func (a answer) decision(position, cost int, limits []Limit) Decision {
	allowed := position < a.granted
	if len(limits) == 1 {
		return Decision{Allowed: allowed, State: a.state(0, position, cost, limits[0]), Source: SourceRedis}
	}
	states := make([]State, len(limits))
	for i, limit := range limits {
		states[i] = a.state(i, position, cost, limit)
	}
	return newDecision(allowed, states, SourceRedis)
}

// state returns the state of limit i after the request at a position. It leaves out the granted requests at later
// positions, which the answer includes.
func (a answer) state(i, position, cost int, limit Limit) State {
	later := max(0, a.granted-1-position)
	if a.logs == nil {
		return State{Limit: limit, Remaining: int(a.remaining) + later*cost, ResetAfter: limit.Window}
	}
	s := State{
		Limit:      limit,
		Remaining:  int(max(0, a.logs[3*i])),
		RetryAfter: time.Duration(a.logs[3*i+1]) * time.Microsecond,
		ResetAfter: time.Duration(a.logs[3*i+2]) * time.Microsecond,
	}
	if limit.InFlight {
		s.setInFlightTimes(s.ResetAfter > 0, s.RetryAfter > 0)
	}
	s.Remaining += later * cost
	switch ban := a.ban(i); {
	case position < a.granted && s.Remaining >= cost:
		s.RetryAfter = 0 // the next request was granted, or would be
	case position >= a.granted && ban > 0:
		s.setBan(time.Duration(ban) * time.Microsecond)
	}
	return s
}
