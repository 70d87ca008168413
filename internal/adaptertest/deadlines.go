package adaptertest

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// deadlines has clients that ask for deadlines in many ways while Redis is slow. No header shortens the context, so
// Redis decides. With a shorter context this process would decide, and admit more than Max.
func deadlines(t *testing.T, app App) {
	headers := []string{
		"Grpc-Timeout: 1n", "Timeout: 0", "Request-Timeout: 0", "X-Request-Timeout: 1us", "X-Timeout: 1ns",
		"X-Deadline: 0", "X-Request-Deadline: 1970-01-01T00:00:00Z", "X-Envoy-Upstream-Rq-Timeout-Ms: 0",
		"X-Envoy-Expected-Rq-Timeout-Ms: 0", "Connect-Timeout-Ms: 0", "Keep-Alive: timeout=0, max=0",
		"Prefer: wait=0", "Expires: 0", "Max-Forwards: 0",
	}
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			redis, log := redistest.Start(t), new(logBuffer)
			limiter, err := core.Connect(redis.URL(), core.WithTimeout(time.Minute), core.WithDenialCache(0, 0),
				core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			require.NoError(t, err)
			defer limiter.Close()
			server, client := startServer(t, app(limiter), protocol, func(w http.ResponseWriter, r *http.Request) {
				_, shortened := r.Context().Deadline()
				assert.False(t, shortened)
				w.WriteHeader(http.StatusNotFound)
			})
			require.NoError(t, redis.Pause())
			time.AfterFunc(200*time.Millisecond, func() { redis.Resume() })
			statuses := make(chan int, len(headers))
			for _, header := range headers {
				go func() {
					r, err := http.NewRequest("GET", server+"/given?timeout=1ns&deadline=0", nil)
					if !assert.NoError(t, err) {
						return
					}
					name, value, _ := strings.Cut(header, ": ")
					r.Header.Set(name, value)
					status := 0
					if response, err := client.Do(r); assert.NoError(t, err, header) {
						response.Body.Close()
						status = response.StatusCode
					}
					statuses <- status
				}()
			}
			admitted := 0
			for range headers {
				if status := <-statuses; status == http.StatusNotFound {
					admitted++
				} else {
					assert.Equal(t, http.StatusTooManyRequests, status)
				}
			}
			assert.Equal(t, Inner.Max, admitted)
			require.NoError(t, redis.Resume())
			d, err := limiter.OnFailure(core.FailClosed).Peek(t.Context(), "ip:127.0.0.1", Inner)
			require.NoError(t, err)
			assert.Equal(t, core.SourceRedis, d.Source)
			assert.Zero(t, d.Remaining, "Redis has counted all admitted requests")
			assert.Empty(t, log.String())
		})
	}
}
