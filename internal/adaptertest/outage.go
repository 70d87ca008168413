package adaptertest

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// outage checks the responses under each failure policy while Redis is down.
func outage(t *testing.T, app App) {
	server := redistest.Start(t)
	server.Kill()
	limiter, err := core.Connect(server.URL(), core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	responses := func(policy core.FailurePolicy) (statuses []int, last *http.Response) {
		handler := app(limiter.OnFailure(policy))
		for range One.Max + 1 {
			last = Get(handler, "/one")
			statuses = append(statuses, last.StatusCode)
		}
		return statuses, last
	}

	statuses, last := responses(core.FailClosed)
	assert.Equal(t, []int{503, 503, 503}, statuses, "an outage is not the client's fault")
	assert.Equal(t, "1", last.Header.Get("Retry-After"))
	body, err := io.ReadAll(last.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), `#temporary-reduced-capacity"`)
	assert.NotContains(t, string(body), server.Addr)

	statuses, last = responses(core.FailOpen)
	assert.Equal(t, []int{200, 200, 200}, statuses)
	assert.NotContains(t, last.Header, "Ratelimit", "the request was not counted, so there is no state")
	assert.NotContains(t, last.Header, "Ratelimit-Policy")

	statuses, last = responses(core.FailLocal)
	assert.Equal(t, []int{200, 200, 429}, statuses, "exactly Max")
	assert.Equal(t, `"one";r=0;t=10`, last.Header.Get("Ratelimit"))
}
