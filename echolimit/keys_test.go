package echolimit_test

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// FrameworkClientIP counts by what Echo finds, if its IPExtractor does not trust all peers.
func TestFrameworkClientIP(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	_, peer, err := net.ParseCIDR("192.0.2.1/32")
	require.NoError(t, err)
	for _, row := range []struct {
		name   string
		trust  echo.IPExtractor
		status int // of the second request, whose header has another address
	}{
		{"no proxy", echo.ExtractIPDirect(), http.StatusTooManyRequests},
		{"another proxy", echo.ExtractIPFromXFFHeader(), http.StatusTooManyRequests},
		{"the peer", echo.ExtractIPFromXFFHeader(echo.TrustIPRange(peer)), http.StatusOK},
	} {
		e := echo.New()
		e.IPExtractor = row.trust
		e.GET("/", ok, echolimit.New(limiter, echolimit.FrameworkClientIP()).Limit(core.PerMinute(row.name, 1)))
		assert.Equal(t, http.StatusOK, adaptertest.Get(e, "/", "X-Forwarded-For: 203.0.113.7").StatusCode, row.name)
		assert.Equal(t, row.status, adaptertest.Get(e, "/", "X-Forwarded-For: 203.0.113.8").StatusCode, row.name)
		assert.Equal(t, http.StatusTooManyRequests,
			adaptertest.Get(e, "/", "X-Forwarded-For: ::ffff:203.0.113.7").StatusCode,
			row.name)
	}
}

// One key function may serve several Echos. It checks the IPExtractor of each, over IPv4 and IPv6.
func TestFrameworkClientIPChecksEachEcho(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := echolimit.New(limiter, echolimit.FrameworkClientIP()).Limit(core.PerMinute("shared", 100))
	trust := func(prefix string) echo.TrustOption {
		_, network, err := net.ParseCIDR(prefix)
		require.NoError(t, err)
		return echo.TrustIPRange(network)
	}
	for _, row := range []struct {
		name   string
		trust  echo.IPExtractor
		status int
	}{
		{"no proxy", echo.ExtractIPDirect(), http.StatusOK},
		{"default", nil, http.StatusInternalServerError},
		{"proxies", echo.ExtractIPFromXFFHeader(trust("10.0.0.0/8"), trust("2400:cb00::/32")), http.StatusOK},
		{"all of IPv4", echo.ExtractIPFromXFFHeader(trust("0.0.0.0/0")), http.StatusInternalServerError},
		{"all of IPv6", echo.ExtractIPFromXFFHeader(trust("::/0")), http.StatusInternalServerError},
		{"all of IPv6 that is assigned", echo.ExtractIPFromRealIPHeader(trust("2000::/3")),
			http.StatusInternalServerError},
		{"a header of any client", func(r *http.Request) string { return r.Header.Get("X-Real-IP") },
			http.StatusInternalServerError},
		{"no proxy again", echo.ExtractIPDirect(), http.StatusOK},
	} {
		e := echo.New()
		e.Logger.SetOutput(new(bytes.Buffer))
		e.IPExtractor = row.trust
		e.GET("/", func(c echo.Context) error {
			assert.Equal(t, "192.0.2.1:1234", c.Request().RemoteAddr, "the request is restored")
			return ok(c)
		}, limit)
		for range 2 {
			assert.Equal(t, row.status, adaptertest.Get(e, "/", "X-Real-IP: 203.0.113.7").StatusCode, row.name)
		}
	}
}

// All requests that match no route are one client, which is not the client of a route.
func TestUnmatchedPathsAreOneClient(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byRoute := echolimit.New(limiter, echolimit.Route())
	e := echo.New()
	e.Use(byRoute.Limit(adaptertest.One))
	e.GET("/users/:id", ok)
	for _, row := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/a", http.StatusNotFound},
		{"POST", "/users/1", http.StatusMethodNotAllowed},
		{"GET", "/b", http.StatusTooManyRequests},
		{"BREW", "/users/1", http.StatusTooManyRequests},
		{"GET", "//users/1", http.StatusTooManyRequests},
		{"GET", "/users/1", http.StatusOK},
		{"GET", "/users/2", http.StatusOK},
		{"GET", "/users/%33?x=1", http.StatusTooManyRequests},
	} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}
