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

// merges are the fields that middleware writes, one after the other, as "RateLimit-Policy|RateLimit", and what remains.
var merges = []struct {
	name       string
	fields     []string
	want       string
	retryAfter int64
	duplicate  string
}{
	{"one", []string{`"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"two", []string{`"a";q=9;w=60|"a";r=8`, `"b";q=1;w=1|"b";r=0;t=1`},
		`"a";q=9;w=60, "b";q=1;w=1|"a";r=8, "b";r=0;t=1`, 1, ""},
	{"three", []string{`"a";q=9;w=60|"a";r=0;t=59`, `"b";q=1;w=1|"b";r=0;t=1`, `"c";q=1;w=9|"c";r=1`},
		`"a";q=9;w=60, "b";q=1;w=1, "c";q=1;w=9|"a";r=0;t=59, "b";r=0;t=1, "c";r=1`, 59, ""},
	{"several in one", []string{`"a";q=9;w=60, "b";q=1;w=1|"a";r=8, "b";r=0;t=1`, `"c";q=1;w=9|"c";r=0;t=9`},
		`"a";q=9;w=60, "b";q=1;w=1, "c";q=1;w=9|"a";r=8, "b";r=0;t=1, "c";r=0;t=9`, 9, ""},
	{"awkward names", []string{`"a, b; \"c";q=9;w=60|"a, b; \"c";r=8`, `"\\";q=1;w=1|"\\";r=0;t=1`},
		`"a, b; \"c";q=9;w=60, "\\";q=1;w=1|"a, b; \"c";r=8, "\\";r=0;t=1`, 1, ""},
	{"in flight", []string{`"a";q=2;qu="concurrent-requests"|"a";r=0`, `"b";q=1;w=1|"b";r=0;t=1`},
		`"a";q=2;qu="concurrent-requests", "b";q=1;w=1|"a";r=0, "b";r=0;t=1`, 1, ""},
	// One limit twice: the fields have its state after both.
	{"twice", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=9;w=60|"a";r=7`}, `"a";q=9;w=60|"a";r=7`, 0, `"a"`},
	{"twice, then full", []string{`"a";q=1;w=60|"a";r=0;t=60`, `"a";q=1;w=60|"a";r=0;t=60`},
		`"a";q=1;w=60|"a";r=0;t=60`, 60, `"a"`},
	{"three times", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=9;w=60|"a";r=7`, `"a";q=9;w=60|"a";r=6`},
		`"a";q=9;w=60|"a";r=6`, 0, `"a"`},
	// Two limits of one name: the fields have the stricter, whichever is last.
	{"the first is stricter", []string{`"a";q=1;w=60|"a";r=0;t=9`, `"a";q=9;w=60|"a";r=8`},
		`"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	{"the last is stricter", []string{`"a";q=9;w=60|"a";r=8`, `"a";q=1;w=60|"a";r=0;t=9`},
		`"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	{"the longer wait is stricter", []string{`"a";q=1;w=60|"a";r=0;t=9`, `"a";q=1;w=6|"a";r=0;t=6`},
		`"a";q=1;w=60|"a";r=0;t=9`, 9, `"a"`},
	// Fields that exactlimit did not write are replaced.
	{"words", []string{`limit|rest`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"of another draft", []string{`10;w=60|limit=10, remaining=9`, `"a";q=9;w=60|"a";r=8`},
		`"a";q=9;w=60|"a";r=8`, 0, ""},
	{"two names", []string{`"x";q=9;w=60|"y";r=8`, `"a";q=9;w=60|"a";r=8`}, `"a";q=9;w=60|"a";r=8`, 0, ""},
	{"lists of two lengths", []string{`"x";q=9;w=60|"x";r=8, "y";r=1`, `"a";q=9;w=60|"a";r=8`},
		`"a";q=9;w=60|"a";r=8`, 0, ""},
	{"huge numbers", []string{`"x";q=9;w=60|"x";r=99999999999999999999`, `"a";q=9;w=60|"a";r=8`},
		`"a";q=9;w=60|"a";r=8`, 0, ""},
}

func TestMergeFields(t *testing.T) {
	for _, row := range merges {
		t.Run(row.name, func(t *testing.T) {
			h, retryAfter, duplicate := http.Header{}, int64(0), ""
			for _, fields := range row.fields {
				policy, limit, _ := strings.Cut(fields, "|")
				var name string
				policy, limit, retryAfter, name = mergeFields(h, []string{policy, limit})
				h[policyField], h[limitField] = []string{policy}, []string{limit}
				duplicate = max(duplicate, name)
			}
			assert.Equal(t, row.want, h.Get(policyField)+"|"+h.Get(limitField))
			assert.Equal(t, row.retryAfter, retryAfter)
			assert.Equal(t, row.duplicate, duplicate)
		})
	}
}

// An independent parser reads both fields back, whatever the names and states of the limits are: each limit once, in
// the same order, with the numbers that were written.
func FuzzFields(f *testing.F) {
	for _, name := range []string{
		"a", "login", `a "quoted" \ name`, `"`, `\`, `\"`, ", ", ";r=0", `";r=0`, "a;q=1", " ", "~",
	} {
		f.Add(name, "b", int64(9), int64(8), int64(60_000), int64(0))
		f.Add(name, "b", int64(1), int64(0), int64(1), int64(1))
		f.Add(name, "requests", int64(9), int64(8), int64(60_000), int64(0))
		f.Add("b", name, int64(1), int64(0), int64(1001), int64(1001))
		f.Add(name, name, int64(999_999_999_999_999), int64(0), int64(1)<<40, int64(1)<<40)
	}
	f.Fuzz(func(t *testing.T, name1, name2 string, limitMax, left, windowMillis, retryMicros int64) {
		maxUnits, remaining := int(limitMax), int(left)
		if remaining < 0 || remaining > maxUnits || retryMicros < 0 || retryMicros > windowMillis*1000 {
			return
		}
		h, retryAfter := http.Header{}, int64(0)
		var want []string
		for i, name := range []string{name1, name2, name1} {
			window := time.Duration(windowMillis) * time.Millisecond
			limit := core.Limit{Name: name, Max: maxUnits, Window: window, Unit: name2}
			if core.Validate(limit) != nil || limit.Window < 0 {
				return
			}
			p, err := NewPolicy([]core.Limit{limit})
			require.NoError(t, err)
			retry := time.Duration(retryMicros) * time.Microsecond
			d := core.Decision{State: core.State{Limit: limit, Remaining: remaining, RetryAfter: retry}}
			var duplicate string
			retryAfter, duplicate = p.setFields(h, &d)
			require.Equal(t, slices.Contains(want, name), duplicate != "", "middleware %d", i)
			if duplicate == "" {
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
			require.Equal(t, int64(maxUnits), q)
			r, _ := limit.Params.Get("r")
			require.Equal(t, int64(remaining), r)
			unit, given := policy.Params.Get("qu")
			require.Equal(t, name2 != "" && name2 != "requests", given)
			if given {
				require.Equal(t, name2, unit)
			}
			w, _ := policy.Params.Get("w")
			require.GreaterOrEqual(t, w.(int64)*1000, windowMillis)
			after, ok := limit.Params.Get("t")
			require.Equal(t, retryMicros > 0, ok)
			if ok {
				require.Equal(t, retryAfter, after)
			}
		}
		// Retry-After is never shorter than what the script returned, and less than a second longer.
		setRetryAfter(h, retryAfter)
		seconds, err := strconv.ParseInt(h.Get("Retry-After"), 10, 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, seconds, int64(1))
		require.GreaterOrEqual(t, seconds*1_000_000, retryMicros)
		if retryMicros > 0 {
			require.Less(t, (seconds-1)*1_000_000, retryMicros)
		}
	})
}

// The merged fields are well-formed, whatever the fields contained before.
func FuzzMergeFields(f *testing.F) {
	for _, row := range merges {
		policy, limit, _ := strings.Cut(row.fields[0], "|")
		f.Add(policy, limit)
	}
	f.Fuzz(func(t *testing.T, policy, limit string) {
		before := http.Header{policyField: {policy}, limitField: {limit}}
		added := []string{`"a";q=9;w=60`, `"a";r=8`}
		policies, limits, _, _ := mergeFields(before, added)
		members := parseMembers(policies, limits)
		require.NotEmpty(t, members)
		merged := http.Header{policyField: {policies}, limitField: {limits}}
		policies, limits, _, _ = mergeFields(merged, added)
		require.Len(t, parseMembers(policies, limits), len(members), "a limit appears only once")
	})
}

// The legacy fields describe the strictest of all limits that a request has passed, whichever is last.
func TestLegacyFields(t *testing.T) {
	now := time.Unix(1000, 1)
	state := func(max, remaining int, retry, reset time.Duration) core.Decision {
		return core.Decision{State: core.State{
			Limit: core.PerMinute("a", max), Remaining: remaining, RetryAfter: retry, ResetAfter: reset,
		}}
	}
	roomy, tight := state(9, 8, 0, 30*time.Second), state(5, 1, 0, 10*time.Second)
	full, longer := state(3, 0, 7*time.Second, 20*time.Second), state(2, 0, 9*time.Second, 9*time.Second)
	for _, row := range []struct {
		name      string
		decisions []core.Decision
		want      string // limit, remaining, reset: rounded up
	}{
		{"room", []core.Decision{roomy}, "9 8 1031"},
		{"none", []core.Decision{full}, "3 0 1008"}, // the time at which more is available
		{"the stricter second", []core.Decision{roomy, tight}, "5 1 1011"},
		{"the stricter first", []core.Decision{tight, roomy}, "5 1 1011"},
		{"the longer wait second", []core.Decision{full, longer}, "2 0 1010"},
		{"the longer wait first", []core.Decision{longer, full, roomy}, "2 0 1010"},
	} {
		h := http.Header{}
		for _, d := range row.decisions {
			setLegacyFields(h, &d, now)
		}
		got := []string{h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), h.Get("X-RateLimit-Reset")}
		assert.Equal(t, row.want, strings.Join(got, " "), row.name)
	}
}
