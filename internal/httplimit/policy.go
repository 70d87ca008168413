package httplimit

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-11, as net/http spells their names.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// Policy is the limits that one request is under, with what answers say of them again and again.
type Policy struct {
	limits []core.Limit
	names  []string // of the limits, as strings of a structured field (RFC 9651, section 3.3.3)
	field  string   // RateLimit-Policy
}

// NewPolicy checks limits and prepares their texts. It keeps limits.
func NewPolicy(limits []core.Limit) (*Policy, error) {
	if err := core.Validate(limits...); err != nil {
		return nil, err
	}
	p := &Policy{limits: limits, names: make([]string, len(limits))}
	var field strings.Builder
	for i, limit := range limits {
		p.names[i] = quote(limit.Name)
		if i > 0 {
			field.WriteString(", ")
		}
		field.WriteString(p.names[i])
		field.WriteString(";q=" + strconv.Itoa(limit.Max))
		field.WriteString(";w=" + strconv.FormatInt(seconds(limit.Window), 10))
	}
	p.field = field.String()
	return p, nil
}

// Fixed is the policy of a route whose limits are known when it is written down. It panics if they make no sense, as
// regexp.MustCompile does.
func Fixed[C any](limits []core.Limit) func(C) (*Policy, error) {
	p, err := NewPolicy(slices.Clone(limits))
	if err != nil {
		panic(err)
	}
	return func(C) (*Policy, error) { return p, nil }
}

// Chosen is the policy of a route whose limits depend on the request. Services choose among a few plans, so the first
// policies are kept, and checked and written out once.
func Chosen[C any](choose func(C) ([]core.Limit, error)) func(C) (*Policy, error) {
	if choose == nil {
		panic("exactlimit: no function to choose limits with: use Limit for limits that are always the same")
	}
	const most = 32
	var kept atomic.Pointer[[]*Policy]
	kept.Store(new([]*Policy))
	return func(c C) (*Policy, error) {
		limits, err := choose(c)
		if err != nil {
			return nil, err
		}
		before := kept.Load()
		for _, p := range *before {
			if slices.Equal(p.limits, limits) {
				return p, nil
			}
		}
		p, err := NewPolicy(slices.Clone(limits)) // the caller may write to limits again
		if err == nil && len(*before) < most {
			after := append(slices.Clip(*before), p)
			kept.CompareAndSwap(before, &after)
		}
		return p, err
	}
}

// setFields adds both fields to a response, behind those of a middleware that ran before.
//
// The parameter t, the seconds until there is more, is there when nothing remains for the next request, and is then exact.
// The script does not say when the oldest entry leaves a log that has room, and a whole window would be a guess.
func (p *Policy) setFields(h http.Header, d *core.Decision) {
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
	set(h, policyField, values[0:1:1])
	set(h, limitField, values[1:2:2])
}

func (p *Policy) appendState(b []byte, i int, state *core.State) []byte {
	b = append(b, p.names[i]...)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, int64(state.Remaining), 10)
	if state.RetryAfter > 0 {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, seconds(state.RetryAfter), 10)
	}
	return b
}

// set gives a field its value, behind what is there: the field is a list, in one line.
func set(h http.Header, field string, value []string) {
	if before := h[field]; len(before) > 0 {
		value[0] = strings.Join(before, ", ") + ", " + value[0]
	}
	h[field] = value
}

// retryAfter is the value of Retry-After: whole seconds, never earlier than the request would be admitted.
func retryAfter(d core.Decision) string {
	return strconv.FormatInt(max(1, seconds(d.RetryAfter)), 10)
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
