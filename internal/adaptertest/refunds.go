package adaptertest

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// refunds gives charges back while Redis is slow or down. The client sees only the response of the handler, and the log
// has one line.
func refunds(t *testing.T, app App) {
	for _, row := range []struct {
		name    string
		path    string
		during  func(*testing.T, *redistest.Server) // while the handler runs
		timeout time.Duration
		charged int
		logged  int
	}{
		{"Redis is up", "/given", func(*testing.T, *redistest.Server) {}, time.Minute, 0, 0},
		{"Redis is slow", "/given", func(t *testing.T, s *redistest.Server) {
			require.NoError(t, s.Pause())
			time.AfterFunc(100*time.Millisecond, func() { s.Resume() })
		}, time.Minute, 0, 0},
		{"Redis is down", "/given", func(_ *testing.T, s *redistest.Server) { s.Kill() }, 100 * time.Millisecond, 2, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, log := redistest.Start(t, "appendonly yes", "appendfsync always"), new(logBuffer)
			limiter, err := core.Connect(server.URL(), core.WithTimeout(row.timeout), core.WithDenialCache(0, 0),
				core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			require.NoError(t, err)
			defer limiter.Close()
			handler, once := app(limiter), sync.OnceFunc(func() { row.during(t, server) })
			var handling, done sync.WaitGroup
			handling.Add(2)
			for range 2 {
				done.Go(func() {
					w, r := httptest.NewRecorder(), httptest.NewRequest("GET", row.path, nil)
					handler.ServeHTTP(w, r.WithContext(withHandler(t.Context(),
						func(w http.ResponseWriter, r *http.Request) {
							handling.Done()
							handling.Wait() // both have been charged
							once()
							OK(w)
						})))
					assert.Equal(t, http.StatusOK, w.Code)
					assert.Equal(t, "ok", w.Body.String())
				})
			}
			done.Wait()
			if row.charged > 0 {
				require.NoError(t, server.Start())
				require.Eventually(t, func() bool {
					d, err := limiter.OnFailure(core.FailClosed).Peek(t.Context(), "ip:192.0.2.1", Inner)
					return err == nil && Inner.Max-d.Remaining == row.charged
				}, 20*time.Second, 20*time.Millisecond)
			} else {
				assert.Equal(t, row.charged, charged(t, limiter, "192.0.2.1"))
			}
			assert.Equal(t, row.logged, strings.Count(log.String(), "level=ERROR"), log)
		})
	}
}
