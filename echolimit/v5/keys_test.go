package echolimit_test

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
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
		{"default", nil, http.StatusOK},
		{"anyone, as in Echo v4", echo.LegacyIPExtractor(), http.StatusInternalServerError},
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
		e.Logger = slog.New(slog.DiscardHandler)
		e.IPExtractor = row.trust
		e.GET("/", func(c *echo.Context) error {
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

// A parameter is one client however it is escaped, and a parameter that contains an escape is another client, whatever
// the router decodes.
func TestPathParamIsDecodedOnce(t *testing.T) {
	for name, config := range map[string]echo.RouterConfig{
		"not decoded":        {},
		"decoded parameters": {UnescapePathParamValues: true},
		"decoded path":       {UseEscapedPathForMatching: true},
		"both":               {UnescapePathParamValues: true, UseEscapedPathForMatching: true},
	} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(config)})
			e.GET("/at\\:home/:other/:id/end", ok, echolimit.New(limiter,
				echolimit.PathParam("id")).Limit(core.PerHour("id", 1)))
			for _, row := range []struct {
				id     string
				status int
			}{
				{"ann", 200}, {"%61nn", 429}, {"%61%6e%6E", 429}, {"a%6en", 429},
				{"%2561nn", 200}, {"%2561%6en", 429}, {"%25%361nn", 429}, // the client "%61nn"
				{"%252561%6en", 200}, {"%252561nn", 429}, // the client "%2561nn"
				{"caf%C3%A9", 200}, {"caf%c3%a9", 429}, {"%63af%c3%a9", 429},
			} {
				assert.Equal(t, row.status, adaptertest.Get(e, "/at:home/x%2Bx/"+row.id+"/end").StatusCode, row.id)
			}
		})
	}
}

// A request that matches no method of its path has no parameters, although Echo's context may have those of another
// request.
func TestPathParamWithoutRoute(t *testing.T) {
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	e.Use(echolimit.New(limiter, echolimit.PathParam("id")).Limit(core.PerHour("id", 1)))
	e.GET("/users/:id", ok)
	for range 3 {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("POST", "/users/ann", nil))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		adaptertest.Get(e, "/users/bob")
	}
}
