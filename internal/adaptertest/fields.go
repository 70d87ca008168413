package adaptertest

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"
)

// checkFields parses the fields of a response with an independent parser. It checks that both are present or none, with
// one value each, that both contain the same limits, each once, and that Retry-After is the time until all have room.
func checkFields(t *testing.T, h http.Header) {
	t.Helper()
	policies, limits := h.Values("RateLimit-Policy"), h.Values("RateLimit")
	require.Equal(t, len(policies), len(limits))
	if len(policies) == 0 {
		return
	}
	require.Len(t, policies, 1)
	policy, err := httpsfv.UnmarshalList(policies)
	require.NoError(t, err, policies)
	limit, err := httpsfv.UnmarshalList(limits)
	require.NoError(t, err, limits)
	require.Equal(t, len(policy), len(limit))
	seen, retryAfter := map[any]bool{}, int64(0)
	for i := range policy {
		p, l := policy[i].(httpsfv.Item), limit[i].(httpsfv.Item)
		require.IsType(t, "", p.Value)
		require.Equal(t, p.Value, l.Value)
		require.False(t, seen[p.Value], "%v appears twice", p.Value)
		seen[p.Value] = true
		require.Positive(t, param(t, p, "q"))
		require.LessOrEqual(t, param(t, l, "r"), param(t, p, "q"))
		qu, _ := p.Params.Get("qu")
		if qu == "concurrent-requests" { // it is unknown when there is room
			require.Zero(t, param(t, p, "w"))
			require.Zero(t, param(t, l, "t"))
			continue
		}
		require.Positive(t, param(t, p, "w"))
		if p.Value != Guard.Name { // its ban is longer than its window
			require.LessOrEqual(t, param(t, l, "t"), param(t, p, "w"))
		}
		require.False(t, param(t, l, "r") == 0 && param(t, l, "t") == 0, "t is present if nothing remains")
		retryAfter = max(retryAfter, param(t, l, "t"))
	}
	if after := h.Get("Retry-After"); after != "" {
		require.Equal(t, fmt.Sprint(max(1, retryAfter)), after)
	}
}

// param returns a parameter, which must be a number and at least 0, or 0 if there is none.
func param(t *testing.T, item httpsfv.Item, name string) int64 {
	t.Helper()
	value, ok := item.Params.Get(name)
	if !ok {
		return 0
	}
	require.IsType(t, int64(0), value)
	require.GreaterOrEqual(t, value, int64(0))
	return value.(int64)
}
