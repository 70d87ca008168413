package httplimit

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

// A key that follows the path is warned of, once. One that holds a path by chance, or the route's template, is not.
func TestKeysThatFollowThePath(t *testing.T) {
	route := "/users/:id"
	for _, row := range []struct {
		name  string
		key   func(path string) string
		paths []string
		warns bool
	}{
		{"the path", func(path string) string { return path }, []string{"/users/1", "/users/2", "/users/3"}, true},
		{"with the method", func(path string) string { return "GET " + path + " 192.0.2.1" }, []string{"/users/1", "/users/2"}, true},
		{"one path", func(path string) string { return path }, []string{"/users/1", "/users/1"}, false},
		{"a template", func(string) string { return "route:" + route }, []string{route, "/users/2"}, false},
		{"by chance", func(string) string { return "ip:2001:db8::/64" }, []string{"/6", "/64", "/users/1", "/64", "/6"}, false},
		{"the root", func(string) string { return "a/b" }, []string{"/", "/users/1"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			said := captureLog(t)
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			gate := NewGate(limiter, func(r *http.Request) (string, error) { return row.key(r.URL.Path), nil }, func(*http.Request) string { return route })
			policy := Fixed[*http.Request]([]core.Limit{core.PerMinute("a", 9)})
			for _, path := range row.paths {
				r, err := http.NewRequest("GET", "http://example.com"+path, nil)
				require.NoError(t, err)
				_, refusal := gate.Check(r, r, http.Header{}, policy)
				require.Nil(t, refusal)
			}
			assert.Equal(t, row.warns, strings.Contains(said.String(), "use Route()"))
			assert.LessOrEqual(t, strings.Count(said.String(), "\n"), 1)
		})
	}
}

// A request that is charged under one name twice is warned of, once.
func TestLimitsPassedTwice(t *testing.T) {
	said := captureLog(t)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	gate := NewGate(limiter, ClientIP(), noRoute)
	twice, other := Fixed[*http.Request]([]core.Limit{core.PerMinute("twice", 9)}), Fixed[*http.Request]([]core.Limit{core.PerMinute("other", 9)})
	pass := func(policies ...func(*http.Request) (*Policy, error)) {
		r, h := &http.Request{RemoteAddr: "192.0.2.1:1"}, http.Header{}
		for _, policy := range policies {
			_, refusal := gate.Check(r, r, h, policy)
			require.Nil(t, refusal)
		}
	}
	pass(twice, other)
	assert.Empty(t, said.String())
	for range 2 {
		pass(twice, other, twice)
	}
	assert.Contains(t, said.String(), "both charged it")
	assert.Contains(t, said.String(), "twice")
	assert.Equal(t, 1, strings.Count(said.String(), "\n"))
}

// panicking is a handler of a logger that panics when it is told of something.
type panicking struct{ slog.Handler }

func (panicking) Handle(context.Context, slog.Record) error { panic("in Handle") }

// If the logger panics when a request is admitted, no handler runs, so the request is not in flight.
func TestPanickingLoggerHoldsNothing(t *testing.T) {
	log := slog.New(panicking{slog.NewTextHandler(io.Discard, nil)})
	limiter, err := core.NewInProcess(core.WithLogger(log))
	require.NoError(t, err)
	defer limiter.Close()
	gate, flight := NewGate(limiter, ClientIP(), noRoute), core.InFlight("twice", 2, time.Minute)
	r, h := &http.Request{RemoteAddr: "192.0.2.1:1"}, http.Header{}
	first, refusal := gate.Check(r, r, h, Fixed[*http.Request]([]core.Limit{core.PerMinute("twice", 9)}))
	require.Nil(t, refusal)
	require.False(t, first.Holds())
	assert.PanicsWithValue(t, "in Handle", func() {
		gate.Check(r, r, h, Fixed[*http.Request]([]core.Limit{flight, core.PerHour("other", 9)}))
	})
	d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", flight)
	require.NoError(t, err)
	assert.Equal(t, 2, d.Remaining)
}

// A trusted proxy that names no client is warned of, once for each gate and however the key function is wrapped.
func TestProxiesThatNameNoClient(t *testing.T) {
	byIP := ClientIP(TrustedProxies("10.0.0.0/8"))
	byHeader := ClientIP(TrustedProxies("10.0.0.0/8"), ProxyHeader("X-Real-IP"))
	own := func(r *http.Request) (string, error) {
		key, err := byIP(r)
		return "own:" + key, err
	}
	for _, row := range []struct {
		name  string
		key   func(*http.Request) (string, error)
		from  string
		names string // what is in X-Forwarded-For
		warns bool
	}{
		{"none", byIP, proxy, "", true},
		{"what is no address", byIP, proxy, "unknown", true},
		{"what is no address, nearer than one", byIP, proxy, client + ", unknown", true},
		{"another header", byHeader, proxy, client, true},
		{"in FirstOf", FirstOf([]func(*http.Request) (string, error){Header("X-API-Key"), byIP}), proxy, "", true},
		{"in Join", Join([]func(*http.Request) (string, error){Route(noRoute), byIP}), proxy, "", true},
		{"in a function of the user's", own, proxy, "", true},
		{"a client", byIP, proxy, client, false},
		{"a client that is a proxy, too", byIP, proxy, "10.0.0.2", false},
		{"no proxy", byIP, client + ":1", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			said := captureLog(t)
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			gate := NewGate(limiter, row.key, noRoute)
			policy := Fixed[*http.Request]([]core.Limit{core.PerMinute("a", 9)})
			for range 3 {
				r := addressRow{row.from, "X-Forwarded-For: " + row.names, ""}.request()
				if row.names == "" {
					r.Header.Del("X-Forwarded-For")
				}
				_, refusal := gate.Check(r, r, http.Header{}, policy)
				require.Nil(t, refusal)
				assert.Nil(t, r.Response, "handlers see nothing of it")
			}
			assert.Equal(t, row.warns, strings.Contains(said.String(), "named no client"))
			assert.LessOrEqual(t, strings.Count(said.String(), "\n"), 1)
			assert.NotContains(t, said.String(), "10.0.0")
		})
	}
}

// captureLog collects what goes to the default log until the end of the test.
func captureLog(t *testing.T) *bytes.Buffer {
	said, before := new(bytes.Buffer), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(said, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return said
}
