package adaptertest

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

// serviceErrors has functions of the service that fail, behind middleware that shows every error. A client gets one
// response without the error, and the limiter's log gets one line every ten seconds.
func serviceErrors(t *testing.T, app App) {
	for _, row := range []struct {
		target, header string
		closed         bool
		status         int
		logged         string
	}{
		{"/own?user=broken", "", false, 401, "hunter2"},
		{"/plan", "X-Plan: broken", false, 500, "hunter2"},
		{"/plan", "X-Plan: invalid", false, 500, "Max is 0"},
		{"/path", "", false, 500, "PathParam"},
		{"/cost?cost=9", "", false, 500, "cost 9"},
		{"/dry?cost=9", "X-API-Key: ann", false, 200, "cost 9"},
		{"/answered", "", false, 403, "the plan is unknown"},
		{"/one", "", true, 503, "the limiter is closed"},
		{"/text", "X-API-Key: ann", true, 503, "the limiter is closed"},
		{"/dry?cost=1", "X-API-Key: ann", true, 200, "the limiter is closed"},
	} {
		t.Run(row.target, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(logBuffer)
				limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
				require.NoError(t, err)
				defer limiter.Close()
				if row.closed {
					limiter.Close()
				}
				handler, headers := app(limiter), []string{row.header}[:min(1, len(row.header))]
				for range 15 { // in 15 seconds
					response := Get(handler, row.target, headers...)
					body, err := io.ReadAll(response.Body)
					require.NoError(t, err)
					assert.Equal(t, row.status, response.StatusCode)
					assert.NotContains(t, string(body), "rendered")
					assert.NotContains(t, string(body), row.logged, "not even in the first response")
					time.Sleep(time.Second)
				}
				assert.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), log)
				assert.Contains(t, log.String(), row.logged)
				assert.Contains(t, log.String(), "unreported=9", "in seconds 1 to 9")
			})
		})
	}
}
