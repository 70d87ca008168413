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

// Spent is a limit for requests whose cost is known only afterwards.
var Spent = core.PerHour("spent", 1_000_000)

// spent returns how many units of Spent the client at addr has used.
func spent(t *testing.T, limiter *core.Limiter, addr string) int {
	t.Helper()
	d, err := limiter.Peek(t.Context(), "ip:"+addr, Spent)
	require.NoError(t, err)
	return Spent.Max - d.Remaining
}

// settles has requests that reserve 10 units and cost 25, and that end in every possible way, over each protocol.
func settles(t *testing.T, app App) {
	respond := func(status int) http.HandlerFunc {
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
	proxies := httputil.NewSingleHostReverseProxy(target) // panics with http.ErrAbortHandler if the client leaves
	proxies.ErrorLog = log.New(io.Discard, "", 0)
	panics := func(http.ResponseWriter, *http.Request) { panic("a handler") }
	panicsLater := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		panic("a handler")
	}
	aborts := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for protocol := range protocols {
		for _, row := range []struct {
			name, path string
			handler    http.HandlerFunc
			leaves     string // when the client leaves
			charged    int
		}{
			{"a response", "/spent", respond(200), "", 25},
			{"a failure", "/spent", respond(500), "", 25},
			{"no response", "/spent", func(http.ResponseWriter, *http.Request) {}, "", 25},
			{"the client leaves", "/spent", left, "running", 25},
			{"a stream that the client leaves", "/spent", streams, "responding", 25},
			{"a stream through a proxy that the client leaves", "/spent", proxies.ServeHTTP, "responding", 25},
			{"an aborted response, for more than was reserved", "/spent", aborts, "", 25},
			{"an aborted response, for less", "/spent?actual=5", aborts, "", 10},
			{"an aborted response, with CountOnly", "/tried", aborts, "", 25},
			{"a panic", "/spent", panics, "", 10},
			{"a panic within a response", "/spent", panicsLater, "", 10},
			{"a status that counts", "/tried", respond(401), "", 25},
			{"a status that does not count", "/tried", respond(200), "", 0},
			{"the client leaves, with CountOnly", "/tried", left, "running", 25},
			{"a stream that does not count", "/tried", streams, "responding", 0},
			{"a panic, with CountOnly", "/tried", panics, "", 10},
			{"an error that counts", "/fails?status=401", nil, "", 25},
		} {
			t.Run(protocol+" "+row.name, func(t *testing.T) {
				limiter, runs, ended := inProcess(t), make(chan struct{}, 1), make(chan struct{}, 1)
				handler := app(limiter)
				server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() {
						ended <- struct{}{}
						if recover() != nil {
							panic(http.ErrAbortHandler) // the server does not log it
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
				received := make(chan struct{})
				go func() {
					defer close(received)
					if response, err := client.Do(r); err == nil {
						if row.leaves == "responding" {
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
				<-received
			})
		}
	}
}

// settlesOfMany makes a thousand requests at once, of many costs, with handlers that panic and clients that leave. What
// is charged is exactly the sum of the settled costs, and of the reservations after panics.
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
					r = r.WithContext(withHandler(ctx, func(w http.ResponseWriter, _ *http.Request) {
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
