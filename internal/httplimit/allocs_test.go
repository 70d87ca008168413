//go:build !race

package httplimit

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

// The race detector allocates, so this runs without it.
func TestAllocations(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	gate := NewGate(limiter, ClientIP(), noRoute)
	policy := FixedPolicy[*http.Request]([]core.Limit{core.PerDay("roomy", 1_000_000)})
	r, h := &http.Request{RemoteAddr: "203.0.113.7:1234", URL: &url.URL{Path: "/search"}}, http.Header{}
	assert.LessOrEqual(t, testing.AllocsPerRun(10_000, func() {
		clear(h)
		gate.Check(r, r, h, policy)
	}), 3.0, "the key, the value of RateLimit, and the list of both values")
	assert.Len(t, h, 2)
}
