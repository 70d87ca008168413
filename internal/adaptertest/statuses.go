package adaptertest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

type handlerKey struct{}

// Handle runs the handler that a test has put into the context of its requests, or OK if there is none.
func Handle(w http.ResponseWriter, r *http.Request) {
	if handler, ok := r.Context().Value(handlerKey{}).(http.HandlerFunc); ok {
		handler(w, r)
	} else {
		OK(w)
	}
}

// with returns a context for requests that handler answers.
func with(ctx context.Context, handler http.HandlerFunc) context.Context {
	return context.WithValue(ctx, handlerKey{}, handler)
}

// listen starts a server for app whose requests handler answers, and returns its URL and a client that speaks protocol.
func listen(t *testing.T, app http.Handler, protocol string, handler http.HandlerFunc) (string, *http.Client) {
	server, accepts := httptest.NewUnstartedServer(app), new(http.Protocols)
	protocols[protocol](accepts)
	server.Config.Protocols = accepts
	server.Config.BaseContext = func(net.Listener) context.Context { return with(context.Background(), handler) }
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{Protocols: accepts, ExpectContinueTimeout: time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	return server.URL, &http.Client{Transport: transport}
}

// charged returns how much of Inner the client at addr has used.
func charged(t *testing.T, limiter *core.Limiter, addr string) int {
	t.Helper()
	d, err := limiter.Peek(t.Context(), "ip:"+addr, Inner)
	require.NoError(t, err)
	return Inner.Max - d.Remaining
}

func inProcess(t *testing.T) *core.Limiter {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// interim has a reverse proxy as the handler, and its backend answer with a status of 1xx first: a failed login counts.
func interim(t *testing.T, app App) {
	for name, first := range map[string]http.HandlerFunc{
		"100 Continue":    func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) },
		"103 Early Hints": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusEarlyHints) },
	} {
		t.Run(name, func(t *testing.T) {
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				first(w, r)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer backend.Close()
			target, err := url.Parse(backend.URL)
			require.NoError(t, err)
			limiter := inProcess(t)
			server, client := listen(t, app(limiter), "HTTP/1.1", httputil.NewSingleHostReverseProxy(target).ServeHTTP)
			for i := 1; i <= Inner.Max+1; i++ {
				r, err := http.NewRequest("GET", server+"/given", strings.NewReader("password=hunter2"))
				require.NoError(t, err)
				r.Header.Set("Expect", "100-continue")
				response, err := client.Do(r)
				require.NoError(t, err)
				response.Body.Close()
				assert.Equal(t, min(i, Inner.Max), charged(t, limiter, "127.0.0.1"), i)
				assert.Equal(t, i > Inner.Max, response.StatusCode == http.StatusTooManyRequests, i)
			}
		})
	}
}

// disconnects has clients that leave as soon as an action has been performed, so that it fails afterwards: it counts.
func disconnects(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			limiter, performed, answered := inProcess(t), make(chan struct{}), make(chan struct{})
			handler := app(limiter)
			server, client := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
				answered <- struct{}{}
			}), protocol, func(w http.ResponseWriter, r *http.Request) {
				performed <- struct{}{}
				<-r.Context().Done()
				w.WriteHeader(http.StatusBadGateway)
			})
			for i := 1; i <= Inner.Max; i++ {
				ctx, leave := context.WithCancel(t.Context())
				r, err := http.NewRequestWithContext(ctx, "GET", server+"/actions", nil)
				require.NoError(t, err)
				left := make(chan error)
				go func() {
					_, err := client.Do(r)
					left <- err
				}()
				<-performed
				leave()
				require.ErrorIs(t, <-left, context.Canceled)
				<-answered
				assert.Equal(t, i, charged(t, limiter, "127.0.0.1"))
			}
		})
	}
}

// streams has clients that leave once an answer has begun, as of a stream of events when its page is closed: its status was
// known by then.
func streams(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			limiter, ended := inProcess(t), make(chan struct{})
			handler := app(limiter)
			server, client := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
				ended <- struct{}{}
			}), protocol, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "event\n")
				assert.NoError(t, http.NewResponseController(w).Flush())
				<-r.Context().Done()
			})
			for path, want := range map[string]int{"/given": 0, "/actions": 1} { // where failures count, and where successes do
				response, err := client.Get(server + path)
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, response.StatusCode)
				require.NoError(t, response.Body.Close())
				<-ended
				assert.Equal(t, want, charged(t, limiter, "127.0.0.1"), path)
				require.NoError(t, limiter.Reset(t.Context(), "ip:127.0.0.1", Inner))
			}
		})
	}
}

// upgrades has handlers leave HTTP, as for websockets, behind what sees the status of their answers: it is no failure.
func upgrades(t *testing.T, app App) {
	limiter, ended := inProcess(t), make(chan struct{}, 1)
	handler := app(limiter)
	server, client := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		ended <- struct{}{}
	}), "HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) { Upgrade(w) })
	for range Inner.Max + 1 {
		response, err := client.Get(server + "/given")
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Equal(t, "hello", string(body))
		<-ended
		assert.Zero(t, charged(t, limiter, "127.0.0.1"))
	}
}

// contextsOfHandlers has the context of a request end while its client waits, with what a handler has made of it:
// that does not count as leaving.
func contextsOfHandlers(t *testing.T, app App) {
	limiter := inProcess(t)
	r := httptest.NewRequest("GET", "/given", nil)
	r = r.WithContext(with(t.Context(), func(w http.ResponseWriter, r *http.Request) {
		ended, end := context.WithCancel(r.Context())
		end()
		*r = *r.WithContext(ended) // as middleware that sets a timeout leaves it
		w.WriteHeader(http.StatusOK)
	}))
	app(limiter).ServeHTTP(httptest.NewRecorder(), r)
	assert.Zero(t, charged(t, limiter, "192.0.2.1"))
}

// panics has handlers panic, before and after they have begun an answer: middleware further out, or none, will
// answer, so the request counts.
func panics(t *testing.T, app App) {
	for i, handler := range []http.HandlerFunc{
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler)
		},
	} {
		limiter := inProcess(t)
		r := httptest.NewRequest("GET", "/given", nil)
		r = r.WithContext(with(t.Context(), handler))
		assert.Panics(t, func() { app(limiter).ServeHTTP(httptest.NewRecorder(), r) })
		assert.Equal(t, 1, charged(t, limiter, "192.0.2.1"), i)
		r = httptest.NewRequest("GET", "/actions", nil)
		r = r.WithContext(with(t.Context(), handler))
		assert.Panics(t, func() { app(limiter).ServeHTTP(httptest.NewRecorder(), r) })
		assert.Equal(t, 2, charged(t, limiter, "192.0.2.1"), i)
	}
}

// refunds has charges given back to a Redis that is slow or gone. The client sees its answer and nothing else, and
// the log says so in one line.
func refunds(t *testing.T, app App) {
	for _, row := range []struct {
		name    string
		path    string
		during  func(*testing.T, *redistest.Server) // while the handler runs
		timeout time.Duration
		charged int
		logged  int
	}{
		{"Redis is well", "/given", func(*testing.T, *redistest.Server) {}, time.Minute, 0, 0},
		{"Redis is slow", "/given", func(t *testing.T, s *redistest.Server) {
			require.NoError(t, s.Pause())
			time.AfterFunc(100*time.Millisecond, func() { s.Resume() })
		}, time.Minute, 0, 0},
		{"Redis is gone", "/given", func(_ *testing.T, s *redistest.Server) { s.Kill() }, 100 * time.Millisecond, 2, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, said := redistest.Start(t, "appendonly yes", "appendfsync always"), new(locked)
			limiter, err := core.Connect(server.URL(), core.WithTimeout(row.timeout), core.WithDenialCache(0, 0),
				core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
			require.NoError(t, err)
			defer limiter.Close()
			handler, once := app(limiter), sync.OnceFunc(func() { row.during(t, server) })
			var handling, done sync.WaitGroup
			handling.Add(2)
			for range 2 {
				done.Go(func() {
					w, r := httptest.NewRecorder(), httptest.NewRequest("GET", row.path, nil)
					handler.ServeHTTP(w, r.WithContext(with(t.Context(), func(w http.ResponseWriter, r *http.Request) {
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
			assert.Equal(t, row.logged, strings.Count(said.String(), "level=ERROR"), said)
		})
	}
}

// serviceErrors has the service itself fail, behind middleware that shows every error. Clients get one answer and learn
// nothing, and the limiter's log gets a line every ten seconds.
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
				said := new(locked)
				limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
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
					assert.NotContains(t, string(body), row.logged, "not even in the first answer")
					time.Sleep(time.Second)
				}
				assert.Equal(t, 2, strings.Count(said.String(), "level=ERROR"), said)
				assert.Contains(t, said.String(), row.logged)
				assert.Contains(t, said.String(), "unreported=9", "of seconds 1 to 9")
			})
		})
	}
}

// deadlines has clients ask for deadlines in every way there is, of a Redis that is slow. Redis decides all the same:
// where a context was shortened, this process would decide, and admit more than Max.
func deadlines(t *testing.T, app App) {
	headers := []string{
		"Grpc-Timeout: 1n", "Timeout: 0", "Request-Timeout: 0", "X-Request-Timeout: 1us", "X-Timeout: 1ns",
		"X-Deadline: 0", "X-Request-Deadline: 1970-01-01T00:00:00Z", "X-Envoy-Upstream-Rq-Timeout-Ms: 0",
		"X-Envoy-Expected-Rq-Timeout-Ms: 0", "Connect-Timeout-Ms: 0", "Keep-Alive: timeout=0, max=0",
		"Prefer: wait=0", "Expires: 0", "Max-Forwards: 0",
	}
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			redis, said := redistest.Start(t), new(locked)
			limiter, err := core.Connect(redis.URL(), core.WithTimeout(time.Minute), core.WithDenialCache(0, 0),
				core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
			require.NoError(t, err)
			defer limiter.Close()
			server, client := listen(t, app(limiter), protocol, func(w http.ResponseWriter, r *http.Request) {
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
			assert.Zero(t, d.Remaining, "Redis has counted all that were admitted")
			assert.Empty(t, said.String())
		})
	}
}

// locked is a buffer for logs that many goroutines write to.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
