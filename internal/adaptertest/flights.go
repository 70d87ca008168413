package adaptertest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Busy is the address of a client with as many requests in flight as Flight allows.
const Busy = "192.0.2.9"

// inFlightNow returns how many requests of the client at addr are in flight.
func inFlightNow(t *testing.T, limiter *core.Limiter, addr string) int {
	t.Helper()
	d, err := limiter.Peek(t.Context(), "ip:"+addr, Flight)
	require.NoError(t, err)
	return Flight.Max - d.Remaining
}

// inFlight checks that requests count exactly while their handlers run, however they end.
func inFlight(t *testing.T, app App) {
	t.Run("streams", func(t *testing.T) { flyingStreams(t, app) })
	t.Run("upgrades", func(t *testing.T) { flyingUpgrades(t, app) })
	t.Run("panics", func(t *testing.T) { flyingPanics(t, app) })
	t.Run("statuses", func(t *testing.T) { flyingStatuses(t, app) })
	t.Run("instances", func(t *testing.T) { flyingInstances(t, app) })
}

// sendTo sends on c, unless the test ends before, for example because it has failed.
func sendTo(t *testing.T, c chan<- bool) {
	select {
	case c <- true:
	case <-t.Context().Done():
	}
}

// receiveFrom receives from c, unless the test ends before.
func receiveFrom(t *testing.T, c <-chan bool) {
	select {
	case <-c:
	case <-t.Context().Done():
	}
}

// flyingStreams has clients that leave streams. A stream counts until its handler has noticed and returned. Until then,
// denied requests get a Retry-After of one second.
func flyingStreams(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			limiter, left, end, ended := onRedis(t, redistest.Prefix()), make(chan bool), make(chan bool),
				make(chan bool)
			handler := app(limiter)
			server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
				if w.Header().Get("Retry-After") == "" {
					sendTo(t, ended)
				}
			}), protocol, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "event\n")
				assert.NoError(t, http.NewResponseController(w).Flush())
				select {
				case <-r.Context().Done():
				case <-t.Context().Done():
				}
				sendTo(t, left)
				receiveFrom(t, end)
			})
			get := func() *http.Response {
				response, err := client.Get(server + "/flight/several")
				require.NoError(t, err)
				return response
			}
			first, second := get(), get()
			assert.Equal(t, `"flight";q=2;qu="concurrent-requests", "inner";q=2;w=3600`,
				second.Header.Get("RateLimit-Policy"))
			assert.Regexp(t, `^"flight";r=0, "inner";r=0;t=\d+$`, second.Header.Get("RateLimit"))
			require.NoError(t, limiter.Reset(t.Context(), "ip:127.0.0.1", Inner))
			third := get()
			assert.Equal(t, http.StatusTooManyRequests, third.StatusCode)
			assert.Equal(t, "1", third.Header.Get("Retry-After"))
			third.Body.Close()
			assert.Equal(t, 0, charged(t, limiter, "127.0.0.1"), "of all limits or of none")

			require.NoError(t, first.Body.Close())
			<-left
			assert.Equal(t, 2, inFlightNow(t, limiter, "127.0.0.1"), "the handler still runs")
			end <- true
			<-ended
			assert.Equal(t, 1, inFlightNow(t, limiter, "127.0.0.1"))
			fourth := get()
			require.Equal(t, http.StatusOK, fourth.StatusCode)
			assert.Equal(t, 1, charged(t, limiter, "127.0.0.1"))
			for _, response := range []*http.Response{second, fourth} {
				require.NoError(t, response.Body.Close())
				<-left
				end <- true
				<-ended
			}
			assert.Zero(t, inFlightNow(t, limiter, "127.0.0.1"))
			assert.Equal(t, 1, charged(t, limiter, "127.0.0.1"), "Inner does not change")
		})
	}
}

// flyingUpgrades has handlers that hijack the connection. They count until they return.
func flyingUpgrades(t *testing.T, app App) {
	limiter, end, ended := onRedis(t, redistest.Prefix()), make(chan bool), make(chan bool)
	handler := app(limiter)
	server, client := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		sendTo(t, ended)
	}), "HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) {
		Upgrade(w)
		receiveFrom(t, end)
	})
	for range Flight.Max + 1 {
		response, err := client.Get(server + "/flight")
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
		assert.Equal(t, 1, inFlightNow(t, limiter, "127.0.0.1"))
		end <- true
		<-ended
		assert.Zero(t, inFlightNow(t, limiter, "127.0.0.1"))
		response.Body.Close()
	}
}

// flyingPanics has handlers that panic, before and after the response has begun.
func flyingPanics(t *testing.T, app App) {
	limiter := inProcess(t)
	handler := app(limiter)
	for _, path := range []string{"/flight", "/flight/several", "/flight/failures"} {
		for _, panics := range []http.HandlerFunc{
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusOK)
				panic(http.ErrAbortHandler)
			},
		} {
			require.NoError(t, limiter.Reset(t.Context(), "ip:192.0.2.1", Inner))
			r := httptest.NewRequest("GET", path, nil)
			r = r.WithContext(withHandler(t.Context(), func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, 1, inFlightNow(t, limiter, "192.0.2.1"), path)
				panics(w, r)
			}))
			assert.Panics(t, func() { handler.ServeHTTP(httptest.NewRecorder(), r) })
			assert.Zero(t, inFlightNow(t, limiter, "192.0.2.1"), path)
		}
	}
}

// flyingStatuses has clients that leave or stay, and responses that count or not. Neither changes the limit of requests
// in flight.
func flyingStatuses(t *testing.T, app App) {
	limiter := onRedis(t, redistest.Prefix())
	handler := app(limiter)
	for i, row := range []struct {
		target  string
		status  int
		leaves  bool
		charged int
	}{
		{"/flight/several", 200, false, 1},
		{"/flight/several", 500, true, 1},
		{"/flight/failures", 200, false, 0},
		{"/flight/failures", 200, true, 1}, // the client could have chosen the status
		{"/flight/failures", 401, false, 1},
		{"/flight/mapped?status=401", 400, false, 1},
	} {
		require.NoError(t, limiter.Reset(t.Context(), "ip:192.0.2.1", Inner))
		ctx, leave := context.WithCancel(t.Context())
		r := httptest.NewRequest("GET", row.target, nil)
		r = r.WithContext(withHandler(ctx, func(w http.ResponseWriter, _ *http.Request) {
			assert.Equal(t, 1, inFlightNow(t, limiter, "192.0.2.1"), i)
			if row.leaves {
				leave()
			}
			w.WriteHeader(row.status)
		}))
		handler.ServeHTTP(httptest.NewRecorder(), r)
		leave()
		assert.Zero(t, inFlightNow(t, limiter, "192.0.2.1"), i)
		assert.Equal(t, row.charged, charged(t, limiter, "192.0.2.1"), i)
	}
}

// flyingInstances has many clients at two instances at once. No more handlers run at once than the limit allows, and in
// the end no request is in flight.
func flyingInstances(t *testing.T, app App) {
	prefix := redistest.Prefix()
	limiters := []*core.Limiter{onRedis(t, prefix), onRedis(t, prefix)}
	handlers := []http.Handler{app(limiters[0]), app(limiters[1])}
	var now, most, passed, denied atomic.Int64
	ctx := withHandler(t.Context(), func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(100 * time.Microsecond)
		now.Add(-1)
	})
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 50 {
				w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/flight", nil)
				handlers[i%2].ServeHTTP(w, r.WithContext(ctx))
				switch w.Code {
				case http.StatusOK:
					passed.Add(1)
				case http.StatusTooManyRequests:
					denied.Add(1)
				default:
					t.Error(w.Code)
				}
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, Flight.Max, most.Load())
	assert.Positive(t, passed.Load())
	assert.Positive(t, denied.Load())
	assert.Zero(t, inFlightNow(t, limiters[0], "192.0.2.1"))
}
