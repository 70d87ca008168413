package httplimit

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/exactlimit/exactlimit/core"
)

// Policy is the limits of one request, with the texts that all responses share. It is immutable.
type Policy struct {
	limits []core.Limit
	names  []string // of the limits, as strings of a structured field (RFC 9651, section 3.3.3)
	field  string   // the value of RateLimit-Policy
}

// NewPolicy checks limits and prepares their texts. It keeps limits, so the caller must not change them.
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
		} else { // the lease of an in-flight limit does not tell when more is available
			field.WriteString(";w=" + strconv.FormatInt(ceilSeconds(limit.Window), 10))
		}
		if unit != "" && unit != "requests" { // the draft's default
			field.WriteString(";qu=" + quote(unit))
		}
	}
	p.field = field.String()
	return p, nil
}

// FixedPolicy returns a function that returns the policy of a route whose limits are always the same. It panics if the
// limits are invalid.
func FixedPolicy[C any](limits []core.Limit) func(C) (*Policy, error) {
	p, err := NewPolicy(slices.Clone(limits))
	if err != nil {
		panic(err)
	}
	return func(C) (*Policy, error) { return p, nil }
}

// PolicyFunc returns a function that returns the policy of a route whose limits depend on the request. Services choose
// among a few plans, so it caches the first policies, which are then checked and formatted only once.
func PolicyFunc[C any](choose func(C) ([]core.Limit, error)) func(C) (*Policy, error) {
	if choose == nil {
		panic("exactlimit: LimitFunc(nil): write a function that returns limits, or use Limit")
	}
	const maxCached = 32
	var cache atomic.Pointer[[]*Policy]
	cache.Store(new([]*Policy))
	return func(c C) (*Policy, error) {
		limits, err := choose(c)
		if err != nil {
			return nil, err
		}
		cached := cache.Load()
		for _, p := range *cached {
			if slices.Equal(p.limits, limits) {
				return p, nil
			}
		}
		p, err := NewPolicy(slices.Clone(limits)) // choose may write to limits again
		if err == nil && len(*cached) < maxCached {
			extended := append(slices.Clip(*cached), p)
			cache.CompareAndSwap(cached, &extended)
		}
		return p, err
	}
}
