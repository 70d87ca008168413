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

// instances has requests of one client at two instances of a service take all of Inner. Once one of them turns out not to
// count, both instances have room for another, whatever they have answered before.
func instances(t *testing.T, app App) {
	url, prefix := redistest.Shared(t).URL(), redistest.Prefix()
	var handlers [2]http.Handler
	for i := range handlers {
		limiter, err := core.Connect(url, core.WithPrefix(prefix), core.WithTimeout(time.Minute), core.WithDenialCache(1000, time.Hour))
		require.NoError(t, err)
		defer limiter.Close()
		handlers[i] = app(limiter)
	}
	a, b := handlers[0], handlers[1]

	// send returns the status of the answer that a request gets from an instance, when it gets one. While its handler runs it
	// waits for the status to answer with.
	send := func(instance http.Handler) (running <-chan struct{}, answer chan<- int, status <-chan int) {
		runs, wanted, got := make(chan struct{}), make(chan int, 1), make(chan int, 1)
		r, w := httptest.NewRequest("GET", "/given", nil), httptest.NewRecorder()
		r = r.WithContext(with(t.Context(), func(w http.ResponseWriter, _ *http.Request) {
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
		_, answer, status := send(instance)
		answer <- http.StatusTeapot
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
	assert.Equal(t, fails, <-thirdStatus, "there is room, and b knows it")
	second <- fails
	assert.Equal(t, fails, <-secondStatus)
	for range 2 {
		denied(a)
		denied(b)
	}
}
