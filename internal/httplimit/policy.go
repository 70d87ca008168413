package httplimit

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/exactlimit/exactlimit/core"
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
		unit := limit.Unit
		if limit.InFlight {
			unit = "concurrent-requests"
		} else { // a lease is no window: it says nothing about when there is more
			field.WriteString(";w=" + strconv.FormatInt(seconds(limit.Window), 10))
		}
		if unit != "" && unit != "requests" { // which the draft has clients assume
			field.WriteString(";qu=" + quote(unit))
		}
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
