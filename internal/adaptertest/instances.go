package adaptertest

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// instances has requests of one client at two instances of a service use up Inner. When one of them does not count,
// both instances admit another request, although they have denied requests before.
func instances(t *testing.T, app App) {
	url, prefix := redistest.Shared(t).URL(), redistest.Prefix()
	var handlers [2]http.Handler
	for i := range handlers {
		limiter, err := core.Connect(url, core.WithPrefix(prefix), core.WithTimeout(time.Minute),
			core.WithDenialCache(1000, time.Hour))
		require.NoError(t, err)
		defer limiter.Close()
		handlers[i] = app(limiter)
	}
	a, b := handlers[0], handlers[1]

	// send sends a request to an instance. It closes running when the handler runs, which responds with the status that
	// it receives from respond. The status of the response is sent to status.
	send := func(instance http.Handler) (running <-chan struct{}, respond chan<- int, status <-chan int) {
		runs, wanted, got := make(chan struct{}), make(chan int, 1), make(chan int, 1)
		r, w := httptest.NewRequest("GET", "/given", nil), httptest.NewRecorder()
		r = r.WithContext(withHandler(t.Context(), func(w http.ResponseWriter, _ *http.Request) {
			close(runs)
			w.WriteHeader(<-wanted)
		}))
		go func() {
			instance.ServeHTTP(w, r)
			got <- w.Code
		}()
		return runs, wanted, got
	}
	denied := func(instance http.Handler) {
		t.Helper()
		_, respond, status := send(instance)
		respond <- http.StatusTeapot
		assert.Equal(t, http.StatusTooManyRequests, <-status)
	}
	const succeeds, fails = http.StatusNoContent, http.StatusUnauthorized

	running, first, firstStatus := send(a)
	<-running
	running, second, secondStatus := send(b)
	<-running
	for range 2 {
		denied(a)
		denied(b)
	}
	first <- succeeds
	assert.Equal(t, succeeds, <-firstStatus)

	_, third, thirdStatus := send(b)
	third <- fails
	assert.Equal(t, fails, <-thirdStatus, "there is room, and b does not cache its denials")
	second <- fails
	assert.Equal(t, fails, <-secondStatus)
	for range 2 {
		denied(a)
		denied(b)
	}
}
