package adaptertest

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Vault is the limit of /vault. Its ban is much longer than its window, and than the test.
var Vault = core.Limit{Name: "vault", Max: 5, Window: 100 * time.Millisecond, Ban: time.Hour}

// guard has an attacker that guesses passwords at two instances at once and also logs in to its own account, whose
// charges are given back. Once a request is denied, none is admitted, although the log is empty several times.
func guard(t *testing.T, app App) {
	for name, url := range map[string]string{"in-process": "", "redis": redistest.Start(t).URL()} {
		t.Run(name, func(t *testing.T) {
			var limiters []*core.Limiter
			var handlers []http.Handler
			for len(handlers) < 2 {
				if url != "" || limiters == nil { // without Redis, the instances share the limiter
					limiter, err := core.Connect(url, core.WithTimeout(10*time.Second))
					require.NoError(t, err)
					defer limiter.Close()
					limiters = append(limiters, limiter)
				}
				handlers = append(handlers, app(limiters[len(limiters)-1]))
			}
			var guesses, denied atomic.Int64
			var all sync.WaitGroup
			start := time.Now()
			for i := range 8 {
				all.Go(func() {
					for n := i; time.Since(start) < 4*Vault.Window; n++ {
						before := denied.Load()
						target := "/vault?status=200"
						if n%2 == 0 {
							target = "/vault?status=401"
						}
						switch status := Get(handlers[n/2%2], target).StatusCode; status {
						case http.StatusTooManyRequests:
							denied.Add(1)
							continue
						case http.StatusUnauthorized:
							guesses.Add(1)
						}
						if before > 0 {
							t.Error("a request was admitted during the ban")
						}
					}
				})
			}
			all.Wait()
			assert.Positive(t, denied.Load())
			assert.LessOrEqual(t, guesses.Load(), int64(Vault.Max))
			for _, limiter := range limiters {
				d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", Vault)
				require.NoError(t, err)
				assert.True(t, d.Banned)
				assert.Greater(t, d.RetryAfter, Vault.Ban/2)
			}
			require.NoError(t, limiters[0].Reset(t.Context(), "ip:192.0.2.1", Vault))
			assert.Equal(t, http.StatusOK, Get(handlers[0], "/vault?status=200").StatusCode)
			t.Logf("%d guesses, %d denied", guesses.Load(), denied.Load())
		})
	}
}
