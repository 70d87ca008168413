package httplimit

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-11, in the canonical form of net/http.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// setFields writes the state of the policy's limits after decision d into both fields of a response. It returns the
// seconds until all limits in the fields have room, zero if they have room now, and the name of a limit that was in the
// fields already, if there is one.
//
// The parameter t, the seconds until more units are available, is present only if nothing remains, and is then exact.
// The script does not return when the oldest entry of a log with room expires, and a whole window would be a guess. So
// would any time at which a request in flight ends.
func (p *Policy) setFields(h http.Header, d *core.Decision) (retryAfter int64, duplicate string) {
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
	// The values of both fields, in one allocation. No other response shares them, so a handler may change them.
	values := []string{p.field, string(b)}
	retryAfter = ceilSeconds(d.RetryAfter)
	if len(h[limitField]) > 0 {
		values[0], values[1], retryAfter, duplicate = mergeFields(h, values)
	}
	h[policyField] = values[0:1:1]
	h[limitField] = values[1:2:2]
	return retryAfter, duplicate
}

// appendState appends the member of the RateLimit field for the policy's limit i.
func (p *Policy) appendState(b []byte, i int, state *core.State) []byte {
	b = append(b, p.names[i]...)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, int64(state.Remaining), 10)
	if state.RetryAfter > 0 && !state.Limit.InFlight {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, ceilSeconds(state.RetryAfter), 10)
	}
	return b
}

// member is one limit in the lists of the two fields.
type member struct {
	name          string // as a string of a structured field
	policy, limit string // its members of RateLimit-Policy and RateLimit, with their parameters
	remaining     int64  // parameter r
	retryAfter    int64  // parameter t, in seconds
}

// mergeFields merges the values of RateLimit-Policy and RateLimit with those in h, which middleware wrote that ran
// before on the same request. If a limit is in both, the stricter state stays, and duplicate is its name.
//
// The fields are the only record of those earlier decisions. To keep the decisions as well would cost each request one
// or two allocations, and most requests pass only one middleware.
func mergeFields(h http.Header, values []string) (policy, limit string, retryAfter int64, duplicate string) {
	members := parseMembers(strings.Join(h[policyField], ", "), strings.Join(h[limitField], ", "))
	for _, m := range parseMembers(values[0], values[1]) {
		i := slices.IndexFunc(members, func(other member) bool { return other.name == m.name })
		if i < 0 {
			members = append(members, m)
			continue
		}
		duplicate = m.name
		earlier := members[i]
		if m.remaining < earlier.remaining || m.remaining == earlier.remaining && m.retryAfter >= earlier.retryAfter {
			members[i] = m
		}
	}
	policies, limits := make([]string, len(members)), make([]string, len(members))
	for i, m := range members {
		policies[i], limits[i] = m.policy, m.limit
		retryAfter = max(retryAfter, m.retryAfter)
	}
	return strings.Join(policies, ", "), strings.Join(limits, ", "), retryAfter, duplicate
}

// parseMembers parses what setFields wrote. It returns nil if other code has replaced that with something else.
func parseMembers(policies, limits string) (members []member) {
	for more := true; more; {
		var m member
		policies, m.policy, _ = cutLast(policies, ',')
		limits, m.limit, more = cutLast(limits, ',')
		m.policy, m.limit = trimSpace(m.policy), trimSpace(m.limit)
		m.name = m.limit
		hasRemaining := false
		for rest, param, ok := cutLast(m.name, ';'); ok; rest, param, ok = cutLast(m.name, ';') {
			m.name = rest
			key, value, _ := strings.Cut(param, "=")
			number, err := strconv.ParseInt(value, 10, 64)
			switch {
			case err != nil || number < 0:
				return nil
			case key == "r":
				m.remaining, hasRemaining = number, true
			case key == "t":
				m.retryAfter = number
			}
		}
		if !hasRemaining || len(m.name) < 2 || !strings.HasPrefix(m.policy, m.name+";q=") {
			return nil
		}
		members = append(members, m)
	}
	slices.Reverse(members)
	return members
}

// setRetryAfter sets Retry-After to a number of seconds: at least 1, because 0 would mean at once.
func setRetryAfter(h http.Header, seconds int64) {
	h["Retry-After"] = []string{strconv.FormatInt(max(1, seconds), 10)}
}

// The fields that were in use before the draft, in the canonical form of net/http.
const (
	legacyLimit     = "X-Ratelimit-Limit"
	legacyRemaining = "X-Ratelimit-Remaining"
	legacyReset     = "X-Ratelimit-Reset"
)

// setLegacyFields writes the state of the strictest limit of the request, because the fields have room for one: its
// Max, what remains, and the time, in seconds since 1970, at which more is available or, if something remains, at which
// the whole budget is. The strictest limit has the least remaining and, among equals, the latest such time.
func setLegacyFields(h http.Header, d *core.Decision, now time.Time) {
	for _, state := range d.States() {
		after := state.ResetAfter
		if state.RetryAfter > 0 {
			after = state.RetryAfter
		}
		reset := now.Add(after).Add(time.Second - 1).Unix()
		if len(h[legacyRemaining]) > 0 { // of another limit, perhaps of middleware that ran before
			remaining, _ := strconv.Atoi(h.Get(legacyRemaining))
			earlierReset, _ := strconv.ParseInt(h.Get(legacyReset), 10, 64)
			if remaining < state.Remaining || remaining == state.Remaining && earlierReset >= reset {
				continue
			}
		}
		h[legacyLimit] = []string{strconv.Itoa(state.Limit.Max)}
		h[legacyRemaining] = []string{strconv.Itoa(state.Remaining)}
		h[legacyReset] = []string{strconv.FormatInt(reset, 10)}
	}
}

// ceilSeconds returns d in seconds, rounded up.
func ceilSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// quote returns name, which is printable ASCII, as a string of a structured field (RFC 9651, section 3.3.3).
func quote(name string) string { return `"` + quoter.Replace(name) + `"` }
