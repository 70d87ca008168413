package adaptertest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// interim has a reverse proxy as the handler, whose backend sends a status of 1xx first. A failed login counts.
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
			server, client := startServer(t, app(limiter), "HTTP/1.1",
				httputil.NewSingleHostReverseProxy(target).ServeHTTP)
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

// disconnects has clients that leave as soon as an action was performed, so that the handler fails. The action counts.
func disconnects(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			limiter, performed, returned := inProcess(t), make(chan struct{}), make(chan struct{})
			handler := app(limiter)
			server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
				returned <- struct{}{}
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
				<-returned
				assert.Equal(t, i, charged(t, limiter, "127.0.0.1"))
			}
		})
	}
}

// streams has clients that leave after the response has begun, such as a stream of events. The status is known by then.
func streams(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			limiter, ended := inProcess(t), make(chan struct{})
			handler := app(limiter)
			server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
				ended <- struct{}{}
			}), protocol, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "event\n")
				assert.NoError(t, http.NewResponseController(w).Flush())
				<-r.Context().Done()
			})
			for path, want := range map[string]int{"/given": 0, "/actions": 1} { // failures count, and successes count
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

// upgrades has handlers that hijack the connection, as for WebSockets. Their status is not a failure.
func upgrades(t *testing.T, app App) {
	limiter, ended := inProcess(t), make(chan struct{}, 1)
	handler := app(limiter)
	server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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

// contextsOfHandlers has a handler that replaces the context of the request by one that has ended. That does not count
// as a client that left.
func contextsOfHandlers(t *testing.T, app App) {
	limiter := inProcess(t)
	r := httptest.NewRequest("GET", "/given", nil)
	r = r.WithContext(withHandler(t.Context(), func(w http.ResponseWriter, r *http.Request) {
		ended, end := context.WithCancel(r.Context())
		end()
		*r = *r.WithContext(ended) // as middleware with a timeout does
		w.WriteHeader(http.StatusOK)
	}))
	app(limiter).ServeHTTP(httptest.NewRecorder(), r)
	assert.Zero(t, charged(t, limiter, "192.0.2.1"))
}

// panics has handlers that panic, before and after the response has begun. The status is unknown, because outer
// middleware may respond, so the request counts.
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
		r = r.WithContext(withHandler(t.Context(), handler))
		assert.Panics(t, func() { app(limiter).ServeHTTP(httptest.NewRecorder(), r) })
		assert.Equal(t, 1, charged(t, limiter, "192.0.2.1"), i)
		r = httptest.NewRequest("GET", "/actions", nil)
		r = r.WithContext(withHandler(t.Context(), handler))
		assert.Panics(t, func() { app(limiter).ServeHTTP(httptest.NewRecorder(), r) })
		assert.Equal(t, 2, charged(t, limiter, "192.0.2.1"), i)
	}
}
