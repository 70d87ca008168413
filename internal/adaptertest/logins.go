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

// Logins is the limit of /logins, which counts failures only.
var Logins = core.PerHour("logins", 300)

// attempts counts the handlers of /logins and /vault that run now, and the most that ran at once.
var attempts struct{ now, most atomic.Int64 }

// Attempt is the handler of /logins and /vault. It takes a millisecond and responds with status.
func Attempt(w http.ResponseWriter, status int) {
	now := attempts.now.Add(1)
	most := attempts.most.Load()
	for now > most && !attempts.most.CompareAndSwap(most, now) {
		most = attempts.most.Load()
	}
	time.Sleep(time.Millisecond)
	attempts.now.Add(-1)
	w.WriteHeader(status)
}

// logins makes a thousand attempts at once, of which every second one fails. Exactly the failures count, and no more
// handlers run at once than the limit has room for.
func logins(t *testing.T, app App) {
	for name, url := range map[string]string{"in-process": "", "redis": redistest.Start(t).URL()} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.Connect(url, core.WithTimeout(10*time.Second))
			require.NoError(t, err)
			defer limiter.Close()
			handler := app(limiter)
			attempts.most.Store(0)
			var passed, failed, denied atomic.Int64
			var all sync.WaitGroup
			for i := range 1000 {
				all.Go(func() {
					target := "/logins?status=200"
					if i%2 == 0 {
						target = "/logins?status=401"
					}
					switch status := Get(handler, target).StatusCode; status {
					case http.StatusOK:
						passed.Add(1)
					case http.StatusUnauthorized:
						failed.Add(1)
					case http.StatusTooManyRequests:
						denied.Add(1)
					default:
						t.Error(status)
					}
				})
			}
			all.Wait()
			assert.EqualValues(t, 1000, passed.Load()+failed.Load()+denied.Load())
			assert.LessOrEqual(t, attempts.most.Load(), int64(Logins.Max), "at once")
			assert.LessOrEqual(t, failed.Load(), int64(Logins.Max))
			d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", Logins)
			require.NoError(t, err)
			assert.EqualValues(t, failed.Load(), Logins.Max-d.Remaining, "exactly the failures are charged")
			t.Logf("%d passed, %d failed, %d denied, %d at once", passed.Load(), failed.Load(),
				denied.Load(), attempts.most.Load())
		})
	}
}
