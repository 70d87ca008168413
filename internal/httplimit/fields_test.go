package httplimit

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

// stacks are the policies of middleware that runs one after the other, as fields have them: RateLimit-Policy | RateLimit.
var stacks = []struct {
	name  string
	each  []string
	want  string
	wait  int64
	twice string
}{
	{"one", []string{`"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"two", []string{`"a";q=9;w=60|"a";r=8`, `"b";q=1;w=1|"b";r=0;t=1`}, `"a";q=9;w=60, "b";q=1;w=1|"a";r=8, "b";r=0;t=1`, 1, ""},
	{"three", []string{`"a";q=9;w=60|"a";r=0;t=59`, `"b";q=1;w=1|"b";r=0;t=1`, `"c";q=1;w=9|"c";r=1`},
		`"a";q=9;w=60, "b";q=1;w=1, "c";q=1;w=9|"a";r=0;t=59, "b";r=0;t=1, "c";r=1`, 59, ""},
	{"several in one", []string{`"a";q=9;w=60, "b";q=1;w=1|"a";r=8, "b";r=0;t=1`, `"c";q=1;w=9|"c";r=0;t=9`},
		`"a";q=9;w=60, "b";q=1;w=1, "c";q=1;w=9|"a";r=8, "b";r=0;t=1, "c";r=0;t=9`, 9, ""},
	{"awkward names", []string{`"a, b; \"c";q=9;w=60|"a, b; \"c";r=8`, `"\\";q=1;w=1|"\\";r=0;t=1`},
		`"a, b; \"c";q=9;w=60, "\\";q=1;w=1|"a, b; \"c";r=8, "\\";r=0;t=1`, 1, ""},
	{"in flight", []string{`"a";q=2;qu="concurrent-requests"|"a";r=0`, `"b";q=1;w=1|"b";r=0;t=1`},
		`"a";q=2;qu="concurrent-requests", "b";q=1;w=1|"a";r=0, "b";r=0;t=1`, 1, ""},
	// One limit twice: as it stands after both.
	{"twice", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=9;w=60|"a";r=7`}, `"a";q=9;w=60|"a";r=7`, 0, `"a"`},
	{"twice, and then none", []string{`"a";q=1;w=60|"a";r=0;t=60`, `"a";q=1;w=60|"a";r=0;t=60`}, `"a";q=1;w=60|"a";r=0;t=60`, 60, `"a"`},
	{"three times", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=9;w=60|"a";r=7`, `"a";q=9;w=60|"a";r=6`}, `"a";q=9;w=60|"a";r=6`, 0, `"a"`},
	// Two limits of one name: the stricter, whoever comes last.
	{"the first is stricter", []string{`"a";q=1;w=60|"a";r=0;t=9`, `"a";q=9;w=60|"a";r=8`}, `"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	{"the last is stricter", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=1;w=60|"a";r=0;t=9`}, `"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	{"the longer wait is stricter", []string{`"a";q=1;w=60|"a";r=0;t=9`, `"a";q=1;w=6|"a";r=0;t=6`}, `"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	// What nobody of ours has written is not passed on.
	{"words", []string{`limit|rest`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"of another draft", []string{`10;w=60|limit=10, remaining=9`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"not of one policy", []string{`"x";q=9;w=60|"y";r=8`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"more of one", []string{`"x";q=9;w=60|"x";r=8, "y";r=1`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"huge numbers", []string{`"x";q=9;w=60|"x";r=99999999999999999999`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
}

func TestStack(t *testing.T) {
	for _, row := range stacks {
		h, wait, twice := http.Header{}, int64(0), ""
		for _, each := range row.each {
			policy, limit, _ := strings.Cut(each, "|")
			var again string
			policy, limit, wait, again = stack(h, []string{policy, limit})
			h[policyField], h[limitField] = []string{policy}, []string{limit}
			twice = max(twice, again)
		}
		assert.Equal(t, row.want, h.Get(policyField)+"|"+h.Get(limitField), row.name)
		assert.Equal(t, row.wait, wait, row.name)
		assert.Equal(t, row.twice, twice, row.name)
	}
}

// Whatever names limits have and however they stand, a parser that is not ours reads both fields back: of each policy once,
// in one order, with the numbers that went in.
func FuzzFields(f *testing.F) {
	for _, name := range []string{"a", "login", `a "quoted" \ name`, `"`, `\`, `\"`, ", ", ";r=0", `";r=0`, "a;q=1", " ", "~"} {
		f.Add(name, "b", int64(9), int64(8), int64(60_000), int64(0))
		f.Add(name, "b", int64(1), int64(0), int64(1), int64(1))
		f.Add(name, "requests", int64(9), int64(8), int64(60_000), int64(0))
		f.Add("b", name, int64(1), int64(0), int64(1001), int64(1001))
		f.Add(name, name, int64(999_999_999_999_999), int64(0), int64(1)<<40, int64(1)<<40)
	}
	f.Fuzz(func(t *testing.T, one, two string, largest, left, window, retry int64) {
		most, remaining := int(largest), int(left)
		h, wait := http.Header{}, int64(0)
		var want []string
		for i, name := range []string{one, two, one} {
			limit := core.Limit{Name: name, Max: most, Window: time.Duration(window) * time.Millisecond, Unit: two}
			if core.Validate(limit) != nil || limit.Window < 0 || remaining < 0 || remaining > most || retry < 0 || retry > window*1000 {
				return
			}
			p, err := NewPolicy([]core.Limit{limit})
			require.NoError(t, err)
			d := core.Decision{State: core.State{Limit: limit, Remaining: remaining, RetryAfter: time.Duration(retry) * time.Microsecond}}
			var twice string
			wait, twice = p.setFields(h, &d)
			require.Equal(t, slices.Contains(want, name), twice != "", "middleware %d", i)
			if twice == "" {
				want = append(want, name)
			}
		}
		policies, err := httpsfv.UnmarshalList(h.Values("RateLimit-Policy"))
		require.NoError(t, err, h)
		limits, err := httpsfv.UnmarshalList(h.Values("RateLimit"))
		require.NoError(t, err, h)
		require.Len(t, policies, len(want))
		require.Len(t, limits, len(want))
		for i, name := range want {
			policy, limit := policies[i].(httpsfv.Item), limits[i].(httpsfv.Item)
			require.Equal(t, name, policy.Value)
			require.Equal(t, name, limit.Value)
			q, _ := policy.Params.Get("q")
			require.Equal(t, int64(most), q)
			r, _ := limit.Params.Get("r")
			require.Equal(t, int64(remaining), r)
			unit, given := policy.Params.Get("qu")
			require.Equal(t, two != "" && two != "requests", given)
			if given {
				require.Equal(t, two, unit)
			}
			w, _ := policy.Params.Get("w")
			require.GreaterOrEqual(t, w.(int64)*1000, window)
			after, ok := limit.Params.Get("t")
			require.Equal(t, retry > 0, ok)
			if ok {
				require.Equal(t, wait, after)
			}
		}
		// Retry-After is never before the moment that the script gives, and at most a second after it.
		setRetryAfter(h, wait)
		told, err := strconv.ParseInt(h.Get("Retry-After"), 10, 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, told, int64(1))
		require.GreaterOrEqual(t, told*1_000_000, retry)
		if retry > 0 {
			require.Less(t, (told-1)*1_000_000, retry)
		}
	})
}

// Whatever stands in the fields already, no panic, and what comes of it is well formed.
func FuzzStack(f *testing.F) {
	for _, row := range stacks {
		policy, limit, _ := strings.Cut(row.each[0], "|")
		f.Add(policy, limit)
	}
	f.Fuzz(func(t *testing.T, policy, limit string) {
		before := http.Header{policyField: {policy}, limitField: {limit}}
		policies, limits, _, _ := stack(before, []string{`"a";q=9;w=60`, `"a";r=8`})
		members := parseMembers(policies, limits)
		require.NotEmpty(t, members)
		again, state, _, _ := stack(http.Header{policyField: {policies}, limitField: {limits}}, []string{`"a";q=9;w=60`, `"a";r=8`})
		require.Len(t, parseMembers(again, state), len(members), "a policy that is there is not there twice")
	})
}

// Of all limits that a request has passed, the legacy fields tell of the strictest, whoever comes last.
func TestLegacyFields(t *testing.T) {
	now := time.Unix(1000, 1)
	state := func(max, remaining int, retry, reset time.Duration) core.Decision {
		return core.Decision{State: core.State{Limit: core.PerMinute("a", max), Remaining: remaining, RetryAfter: retry, ResetAfter: reset}}
	}
	roomy, tight := state(9, 8, 0, 30*time.Second), state(5, 1, 0, 10*time.Second)
	full, longer := state(3, 0, 7*time.Second, 20*time.Second), state(2, 0, 9*time.Second, 9*time.Second)
	for _, row := range []struct {
		name      string
		decisions []core.Decision
		want      string // limit, remaining, reset: rounded up
	}{
		{"room", []core.Decision{roomy}, "9 8 1031"},
		{"none", []core.Decision{full}, "3 0 1008"}, // when there is more, not when all is back
		{"the tighter", []core.Decision{roomy, tight}, "5 1 1011"},
		{"from either side", []core.Decision{tight, roomy}, "5 1 1011"},
		{"the longer wait", []core.Decision{full, longer}, "2 0 1010"},
		{"from either side", []core.Decision{longer, full, roomy}, "2 0 1010"},
	} {
		h := http.Header{}
		for _, d := range row.decisions {
			setLegacyFields(h, &d, now)
		}
		assert.Equal(t, row.want, h.Get("X-RateLimit-Limit")+" "+h.Get("X-RateLimit-Remaining")+" "+h.Get("X-RateLimit-Reset"), row.name)
	}
}
