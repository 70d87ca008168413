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

// A key that contains each request's path is logged once. A key that contains a path by chance, or the template of the
// route, is not logged.
func TestPathInKey(t *testing.T) {
	route := "/users/:id"
	for _, row := range []struct {
		name  string
		key   func(path string) string
		paths []string
		warns bool
	}{
		{"the path", func(path string) string { return path }, []string{"/users/1", "/users/2", "/users/3"}, true},
		{"with the method", func(path string) string { return "GET " + path + " 192.0.2.1" },
			[]string{"/users/1", "/users/2"}, true},
		{"one path", func(path string) string { return path }, []string{"/users/1", "/users/1"}, false},
		{"a template", func(string) string { return "route:" + route }, []string{route, "/users/2"}, false},
		{"by chance", func(string) string { return "ip:2001:db8::/64" },
			[]string{"/6", "/64", "/users/1", "/64", "/6"}, false},
		{"the root", func(string) string { return "a/b" }, []string{"/", "/users/1"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			log := captureLog(t)
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			key := func(r *http.Request) (string, error) { return row.key(r.URL.Path), nil }
			gate := NewGate(limiter, key, func(*http.Request) string { return route })
			policy := FixedPolicy[*http.Request]([]core.Limit{core.PerMinute("a", 9)})
			for _, path := range row.paths {
				r, err := http.NewRequest("GET", "http://example.com"+path, nil)
				require.NoError(t, err)
				_, refusal := gate.Check(r, r, http.Header{}, policy)
				require.Nil(t, refusal)
			}
			assert.Equal(t, row.warns, strings.Contains(log.String(), "use Route()"))
			assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 1)
		})
	}
}

// A request that two limits of one name charge is logged once.
func TestDuplicateLimit(t *testing.T) {
	log := captureLog(t)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	gate := NewGate(limiter, ClientIP(), noRoute)
	twice := FixedPolicy[*http.Request]([]core.Limit{core.PerMinute("twice", 9)})
	other := FixedPolicy[*http.Request]([]core.Limit{core.PerMinute("other", 9)})
	pass := func(policies ...func(*http.Request) (*Policy, error)) {
		r, h := &http.Request{RemoteAddr: "192.0.2.1:1"}, http.Header{}
		for _, policy := range policies {
			_, refusal := gate.Check(r, r, h, policy)
			require.Nil(t, refusal)
		}
	}
	pass(twice, other)
	assert.Empty(t, log.String())
	for range 2 {
		pass(twice, other, twice)
	}
	assert.Contains(t, log.String(), "both charged it")
	assert.Contains(t, log.String(), "twice")
	assert.Equal(t, 1, strings.Count(log.String(), "\n"))
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
	first, refusal := gate.Check(r, r, h, FixedPolicy[*http.Request]([]core.Limit{core.PerMinute("twice", 9)}))
	require.Nil(t, refusal)
	require.False(t, first.Holds())
	assert.PanicsWithValue(t, "in Handle", func() {
		gate.Check(r, r, h, FixedPolicy[*http.Request]([]core.Limit{flight, core.PerHour("other", 9)}))
	})
	d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", flight)
	require.NoError(t, err)
	assert.Equal(t, 2, d.Remaining)
}

// A trusted proxy that sends no address of the client is logged once per gate, however the key function is wrapped.
func TestNoClientAddress(t *testing.T) {
	byIP := ClientIP(TrustedProxies("10.0.0.0/8"))
	byHeader := ClientIP(TrustedProxies("10.0.0.0/8"), ProxyHeader("X-Real-IP"))
	wrapped := func(r *http.Request) (string, error) {
		key, err := byIP(r)
		return "own:" + key, err
	}
	for _, row := range []struct {
		name         string
		key          func(*http.Request) (string, error)
		from         string
		forwardedFor string
		warns        bool
	}{
		{"none", byIP, proxy, "", true},
		{"not an address", byIP, proxy, "unknown", true},
		{"not an address, nearer than one", byIP, proxy, client + ", unknown", true},
		{"another header", byHeader, proxy, client, true},
		{"in FirstOf", FirstOf([]func(*http.Request) (string, error){Header("X-API-Key"), byIP}), proxy, "", true},
		{"in Join", Join([]func(*http.Request) (string, error){Route(noRoute), byIP}), proxy, "", true},
		{"in a function of the service", wrapped, proxy, "", true},
		{"a client", byIP, proxy, client, false},
		{"a client that is also a proxy", byIP, proxy, "10.0.0.2", false},
		{"no proxy", byIP, client + ":1", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			log := captureLog(t)
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			gate := NewGate(limiter, row.key, noRoute)
			policy := FixedPolicy[*http.Request]([]core.Limit{core.PerMinute("a", 9)})
			for range 3 {
				r := addressRow{row.from, "X-Forwarded-For: " + row.forwardedFor, ""}.request()
				if row.forwardedFor == "" {
					r.Header.Del("X-Forwarded-For")
				}
				_, refusal := gate.Check(r, r, http.Header{}, policy)
				require.Nil(t, refusal)
				assert.Nil(t, r.Response, "handlers do not see the mark")
			}
			assert.Equal(t, row.warns, strings.Contains(log.String(), "sent no address of the client"))
			assert.LessOrEqual(t, strings.Count(log.String(), "\n"), 1)
			assert.NotContains(t, log.String(), "10.0.0")
		})
	}
}

// captureLog returns what is written to the default logger until the end of the test.
func captureLog(t *testing.T) *bytes.Buffer {
	log, before := new(bytes.Buffer), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}
