package httplimit

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-11, as net/http spells their names.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// setFields tells where the policy stands after a decision, in both fields of a response. It returns how many seconds pass
// until all limits that the fields tell of have room, zero if they have.
//
// The parameter t, the seconds until there is more, is there when nothing remains for the next request, and is then exact.
// The script does not say when the oldest entry leaves a log that has room, and a whole window would be a guess. So would
// any time be in which a request in flight ends.
func (p *Policy) setFields(h http.Header, d *core.Decision) (wait int64, twice string) {
	var buffer [128]byte
	b := buffer[:0]
	if len(p.limits) == 1 {
		b = p.appendState(b, 0, &d.State)
	} else {
		for i, state := range d.States() {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = p.appendState(b, i, &state)
		}
	}
	// The values of both, in one allocation. They are of this response alone, so a handler may change them.
	values := []string{p.field, string(b)}
	wait = seconds(d.RetryAfter)
	if len(h[limitField]) > 0 {
		values[0], values[1], wait, twice = stack(h, values)
	}
	h[policyField] = values[0:1:1]
	h[limitField] = values[1:2:2]
	return wait, twice
}

func (p *Policy) appendState(b []byte, i int, state *core.State) []byte {
	b = append(b, p.names[i]...)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, int64(state.Remaining), 10)
	if state.RetryAfter > 0 && !state.Limit.InFlight {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, seconds(state.RetryAfter), 10)
	}
	return b
}

// member is one policy as the two fields tell of it.
type member struct {
	name          string // as a string of a structured field
	policy, limit string // its members in either list, with their parameters
	r, t          int64  // what remains, and the seconds until there is more
}

// stack puts the fields of middleware together with what middleware that ran before on the same request has written into h.
// Each policy is there once: told of twice, it is as the stricter says. twice names one that was.
//
// What was written is all that is known of those decisions. To keep them beside the fields would cost every request an
// allocation or two, and most requests pass one middleware.
func stack(h http.Header, values []string) (policy, limit string, wait int64, twice string) {
	members := parseMembers(strings.Join(h[policyField], ", "), strings.Join(h[limitField], ", "))
	for _, m := range parseMembers(values[0], values[1]) {
		i := slices.IndexFunc(members, func(other member) bool { return other.name == m.name })
		if i < 0 {
			members = append(members, m)
			continue
		}
		twice = m.name
		if m.r < members[i].r || m.r == members[i].r && m.t >= members[i].t {
			members[i] = m
		}
	}
	policies, limits := make([]string, len(members)), make([]string, len(members))
	for i, m := range members {
		policies[i], limits[i] = m.policy, m.limit
		wait = max(wait, m.t)
	}
	return strings.Join(policies, ", "), strings.Join(limits, ", "), wait, twice
}

// parseMembers reads what setFields wrote. It returns nothing if anybody has changed that to what makes no sense.
func parseMembers(policies, limits string) (members []member) {
	for more := true; more; {
		var m member
		policies, m.policy, _ = cutLast(policies, ',')
		limits, m.limit, more = cutLast(limits, ',')
		m.policy, m.limit = trim(m.policy), trim(m.limit)
		params, remains := m.limit, false
		for rest, param, ok := cutLast(params, ';'); ok; rest, param, ok = cutLast(params, ';') {
			params = rest
			key, value, _ := strings.Cut(param, "=")
			number, err := strconv.ParseInt(value, 10, 64)
			switch {
			case err != nil || number < 0:
				return nil
			case key == "r":
				m.r, remains = number, true
			case key == "t":
				m.t = number
			}
		}
		m.name = params
		if !remains || len(m.name) < 2 || !strings.HasPrefix(m.policy, m.name+";q=") {
			return nil
		}
		members = append(members, m)
	}
	slices.Reverse(members)
	return members
}

// setRetryAfter says in how many seconds to come back: at least one, which is the soonest that the field can say.
func setRetryAfter(h http.Header, seconds int64) {
	h["Retry-After"] = []string{strconv.FormatInt(max(1, seconds), 10)}
}

// The fields that were there before the draft, as net/http spells their names.
const (
	legacyLimit     = "X-Ratelimit-Limit"
	legacyRemaining = "X-Ratelimit-Remaining"
	legacyReset     = "X-Ratelimit-Reset"
)

// setLegacyFields tells where the strictest limit of the request stands, since there is room for one: what it allows, what
// remains, and as seconds since 1970 when there is more or, where something remains, when all is back. Of limits with as
// much left, the strictest is the one that keeps its clients waiting longest.
func setLegacyFields(h http.Header, d *core.Decision, now time.Time) {
	for _, state := range d.States() {
		after := state.ResetAfter
		if state.RetryAfter > 0 {
			after = state.RetryAfter
		}
		reset := now.Add(after).Add(time.Second - 1).Unix()
		if len(h[legacyRemaining]) > 0 { // of another, perhaps of middleware that ran before
			remaining, _ := strconv.Atoi(h.Get(legacyRemaining))
			until, _ := strconv.ParseInt(h.Get(legacyReset), 10, 64)
			if remaining < state.Remaining || remaining == state.Remaining && until >= reset {
				continue
			}
		}
		h[legacyLimit] = []string{strconv.Itoa(state.Limit.Max)}
		h[legacyRemaining] = []string{strconv.Itoa(state.Remaining)}
		h[legacyReset] = []string{strconv.FormatInt(reset, 10)}
	}
}

// seconds rounds up.
func seconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// quote writes printable ASCII as a structured field's string.
func quote(name string) string { return `"` + quoter.Replace(name) + `"` }
