package adaptertest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Spent is the limit of requests whose cost is known afterwards.
var Spent = core.PerHour("spent", 1_000_000)

// spent returns how much of Spent the client at addr has used.
func spent(t *testing.T, limiter *core.Limiter, addr string) int {
	t.Helper()
	d, err := limiter.Peek(t.Context(), "ip:"+addr, Spent)
	require.NoError(t, err)
	return Spent.Max - d.Remaining
}

// settles has requests reserve 10 units and cost 25, over each protocol, and end in every way there is.
func settles(t *testing.T, app App) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	left := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	streams := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "event\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	backend := httptest.NewServer(http.HandlerFunc(streams))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	proxies := httputil.NewSingleHostReverseProxy(target) // it panics with http.ErrAbortHandler if the client leaves
	proxies.ErrorLog = log.New(io.Discard, "", 0)
	dies := func(http.ResponseWriter, *http.Request) { panic("a handler") }
	diesLater := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		panic("a handler")
	}
	aborts := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for protocol := range protocols {
		for _, row := range []struct {
			name, path string
			handler    http.HandlerFunc
			leaves     string // when the client does
			charged    int
		}{
			{"an answer", "/spent", answer(200), "", 25},
			{"a failure", "/spent", answer(500), "", 25},
			{"no answer", "/spent", func(http.ResponseWriter, *http.Request) {}, "", 25},
			{"the client leaves", "/spent", left, "running", 25},
			{"a stream that the client leaves", "/spent", streams, "answered", 25},
			{"a stream through a proxy that the client leaves", "/spent", proxies.ServeHTTP, "answered", 25},
			{"an answer cut off, for more than was reserved", "/spent", aborts, "", 25},
			{"an answer cut off, for less", "/spent?actual=5", aborts, "", 10},
			{"an answer cut off, where some count", "/tried", aborts, "", 25},
			{"a panic", "/spent", dies, "", 10},
			{"a panic within an answer", "/spent", diesLater, "", 10},
			{"one that counts", "/tried", answer(401), "", 25},
			{"one that does not", "/tried", answer(200), "", 0},
			{"one of which the client does not wait to see whether it does", "/tried", left, "running", 25},
			{"a stream of which it has seen that it does not", "/tried", streams, "answered", 0},
			{"a panic where some count", "/tried", dies, "", 10},
			{"an error that counts", "/fails?status=401", nil, "", 25},
		} {
			t.Run(protocol+" "+row.name, func(t *testing.T) {
				limiter, runs, ended := inProcess(t), make(chan struct{}, 1), make(chan struct{}, 1)
				handler := app(limiter)
				server, client := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() {
						ended <- struct{}{}
						if recover() != nil {
							panic(http.ErrAbortHandler) // which the server does not log
						}
					}()
					handler.ServeHTTP(w, r)
				}), protocol, func(w http.ResponseWriter, r *http.Request) {
					runs <- struct{}{}
					row.handler(w, r)
				})
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				separator := "?"
				if strings.Contains(row.path, "?") {
					separator = "&"
				}
				if row.handler == nil {
					runs <- struct{}{}
				}
				r, err := http.NewRequestWithContext(ctx, "GET", server+row.path+separator+"cost=10&actual=25", nil)
				require.NoError(t, err)
				came := make(chan struct{})
				go func() {
					defer close(came)
					if response, err := client.Do(r); err == nil {
						if row.leaves == "answered" {
							leave()
						}
						io.Copy(io.Discard, response.Body)
						response.Body.Close()
					}
				}()
				<-runs
				if row.leaves == "running" {
					leave()
				}
				<-ended
				assert.Equal(t, row.charged, spent(t, limiter, "127.0.0.1"))
				<-came
			})
		}
	}
}

// settlesOfMany has a thousand requests at once, of all costs, with handlers that panic and clients that leave. What is
// charged is exactly the sum of what was settled, and of what panics have left as it was reserved.
func settlesOfMany(t *testing.T, app App) {
	for name, url := range map[string]string{"in-process": "", "redis": redistest.Start(t).URL()} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.Connect(url, core.WithTimeout(time.Minute))
			require.NoError(t, err)
			defer limiter.Close()
			handler := app(limiter)
			var want, denied atomic.Int64
			var all sync.WaitGroup
			for i := range 1000 {
				all.Go(func() {
					cost, actual := 1+i%13, (i*i)%41
					ctx, leave := context.WithCancel(t.Context())
					defer leave()
					charged := actual
					r := httptest.NewRequest("GET", fmt.Sprintf("/spent?cost=%d&actual=%d", cost, actual), nil)
					r = r.WithContext(with(ctx, func(w http.ResponseWriter, _ *http.Request) {
						switch i % 7 {
						case 0:
							charged = cost
							panic("a handler")
						case 1:
							leave()
						case 2:
							OK(w)
							leave()
						case 3:
							w.WriteHeader(http.StatusInternalServerError)
						default:
							OK(w)
						}
					}))
					defer func() {
						recover()
						want.Add(int64(charged))
					}()
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, r)
					if w.Code == http.StatusTooManyRequests {
						denied.Add(1)
					}
				})
			}
			all.Wait()
			assert.Zero(t, denied.Load())
			assert.EqualValues(t, want.Load(), spent(t, limiter, "192.0.2.1"))
		})
	}
}
