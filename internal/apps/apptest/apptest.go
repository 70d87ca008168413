// Package apptest has what the tests of all applications need.
package apptest

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Request is one request, and what it has to be answered.
type Request struct {
	Target  string // the method and the path, such as "GET /version"
	As      string // the value of Authorization, or another field, such as "X-Push-Key: secret"; empty for none
	Body    string // which Content-Type says is JSON; empty for none
	Status  int
	Want    string // JSON, or "" if any body is right
	Address string // of the client, 192.0.2.1 if it is empty
}

// Send sends a request to an application.
func (r Request) Send(app http.Handler) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(r.Target, " ")
	request := httptest.NewRequest(method, target, strings.NewReader(r.Body))
	request.Header.Set("Content-Type", "application/json")
	if name, value, ok := strings.Cut(r.As, ": "); ok {
		request.Header.Set(name, value)
	} else if r.As != "" {
		request.Header.Set("Authorization", r.As)
	}
	if r.Address != "" {
		request.RemoteAddr = r.Address + ":1234"
	}
	w := httptest.NewRecorder()
	app.ServeHTTP(w, request)
	return w
}

// Play sends requests one after the other, and compares what they are answered.
func Play(t *testing.T, app http.Handler, requests []Request) {
	t.Helper()
	for i, r := range requests {
		w := r.Send(app)
		assert.Equal(t, r.Status, w.Code, "%d: %s as %q: %s", i, r.Target, r.As, w.Body)
		if r.Want != "" {
			assert.JSONEq(t, r.Want, w.Body.String(), "%d: %s as %q", i, r.Target, r.As)
		}
	}
}

// Limiter returns a limiter on the Redis of all tests. Limiters with one prefix are those of instances of one service.
func Limiter(t *testing.T, prefix string) *core.Limiter {
	t.Helper()
	return connect(t, redistest.Shared(t).URL(), core.WithPrefix(prefix), core.WithTimeout(10*time.Second))
}

// Stopped returns a limiter whose Redis has answered once, and has ended then.
func Stopped(t *testing.T) *core.Limiter {
	t.Helper()
	server := redistest.Start(t)
	limiter := connect(t, server.URL(), core.WithLogger(slog.New(slog.DiscardHandler)))
	require.Eventually(t, func() bool {
		d, err := limiter.Allow(t.Context(), "first", core.PerHour("first", 1000))
		return err == nil && d.Source == core.SourceRedis
	}, 10*time.Second, 10*time.Millisecond)
	server.Kill()
	return limiter
}

func connect(t *testing.T, url string, opts ...core.Option) *core.Limiter {
	t.Helper()
	limiter, err := core.Connect(url, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// Count sends a request many times at once, in turns to each of several instances, and returns how often it was
// answered with which status.
func Count(instances []http.Handler, times int, r Request) map[int]int {
	statuses := make(chan int)
	for i := range times {
		go func() { statuses <- r.Send(instances[i%len(instances)]).Code }()
	}
	counts := map[int]int{}
	for range times {
		counts[<-statuses]++
	}
	return counts
}

// Unavailable checks that a request is answered once, by the limiter, with 503 and without the reason.
func Unavailable(t *testing.T, r Request, app http.Handler) {
	t.Helper()
	w := r.Send(app)
	assert.Equal(t, http.StatusServiceUnavailable, w.Code, r.Target)
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), r.Target)
	var problem map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem), "%s: more than one answer: %s", r.Target, w.Body)
	assert.ElementsMatch(t, []string{"type", "title", "status", "violated-policies"},
		slices.Collect(maps.Keys(problem)))
	for _, inside := range []string{"127.0.0.1", "redis", "exactlimit"} {
		assert.NotContains(t, strings.ToLower(w.Body.String()), inside, r.Target)
	}
}

// Same checks that two applications give the same answer to a request.
func Same(t *testing.T, r Request, plain, limited http.Handler) {
	t.Helper()
	want, got := r.Send(plain), r.Send(limited)
	assert.Equal(t, want.Code, got.Code, "%s as %q", r.Target, r.As)
	assert.Equal(t, want.Body.String(), got.Body.String(), "%s as %q", r.Target, r.As)
	assert.Equal(t, want.Header().Get("Content-Type"), got.Header().Get("Content-Type"), "%s as %q", r.Target, r.As)
}
