package echolimit_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// In Echo.Pre requests have no route yet, so a limit there is logged, once.
func TestLimitsInPre(t *testing.T) {
	log, before := new(bytes.Buffer), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	defer slog.SetDefault(before)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	for name, middleware := range map[string]echo.MiddlewareFunc{
		"Limit": byIP.Limit(core.PerMinute("any", 9)),
		"LimitRoutes": echolimit.New(limiter,
			echolimit.ClientIP()).LimitRoutes(echolimit.Routes{"GET /login": {adaptertest.One}}),
	} {
		e := echo.New()
		e.GET("/login", ok)
		e.Use(middleware)
		adaptertest.Get(e, "/login")
		adaptertest.Get(e, "/unknown")
		assert.Empty(t, log.String(), name)

		e = echo.New()
		e.GET("/login", ok)
		e.Pre(middleware)
		adaptertest.Get(e, "/unknown")
		assert.Empty(t, log.String(), name)
		for range 3 {
			adaptertest.Get(e, "/login")
		}
		assert.Contains(t, log.String(), "Use Echo.Use instead", name)
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), name)
		log.Reset()
	}
}

// Check lists the entries without a route, and CheckAll also what lacks an entry.
func TestCheckRoutes(t *testing.T) {
	e := echo.New()
	e.GET("/search", ok)
	e.Group("/users", func(next echo.HandlerFunc) echo.HandlerFunc { return next }).POST("/:id", ok)
	e.GET("reports", ok) // Echo matches it with a slash
	e.Any("/files/*", ok)
	e.RouteNotFound("/*", ok)
	one := []core.Limit{adaptertest.One}
	fits := echolimit.Routes{
		"GET /search": one, "POST /users/:id": nil, "GET /reports": one, "ANY /files/*": one, "RouteNotFound": one,
	}
	assert.NoError(t, fits.Check(e))
	assert.NoError(t, fits.CheckAll(e))
	misses := echolimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(e), "exactlimit: Routes does not match the registered routes:\n"+
		"\tPOST /users/:user: has limits, but no such route is registered")
	assert.EqualError(t, misses.CheckAll(e), "exactlimit: Routes does not match the registered routes:\n"+
		"\tANY /files/*: has no entry: write its limits, or nil if it needs none\n"+
		"\tGET /reports: has no entry: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:id: has no entry: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:user: has limits, but no such route is registered\n"+
		"\tRouteNotFound: has no entry: write the limits of requests that match no route, or nil if they need none")
}

// RouteNotFound stands for all requests that match no route, and for no others.
func TestLimitsOfRequestsWithoutRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	limits := byIP.LimitRoutes(echolimit.Routes{
		"GET /search":   {adaptertest.Outer},
		"RouteNotFound": {adaptertest.Inner},
	})
	for i := range 2 { // one middleware on two Echos
		e := echo.New()
		e.Use(limits)
		e.GET(fmt.Sprint("/only/", i), ok)
		e.GET("/search", ok)
		e.Group("/api", func(next echo.HandlerFunc) echo.HandlerFunc { return next }).GET("/users/:id", ok)
		e.RouteNotFound("/files/*", ok)
		e.GET("/files/*", ok)
		for _, row := range []struct {
			method, target string
			limited        bool
		}{
			{"GET", "/search", true},
			{"GET", "/api/users/1", false},
			{"GET", "/files/1", false},
			{"GET", fmt.Sprint("/only/", i), false},
			{"GET", fmt.Sprint("/only/", 1-i), true},
			{"GET", "/nowhere", true},
			{"BREW", "/search", true},
			{"OPTIONS", "/search", true},
			{"POST", "/api/users/1", true},
			{"GET", "/api", true},
			{"GET", "/api/nowhere", true},
			{"POST", "/files/1", true},
		} {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
			assert.Equal(t, row.limited, w.Header().Get("Ratelimit") != "", row)
		}
	}
}

// If Echo answers a HEAD request by a route for GET, the limits of that route apply, and CountOnly gets the status that
// the client sees.
func TestAutoHandleHEAD(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(echo.RouterConfig{AutoHandleHEAD: true})})
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	byRoute := echolimit.New(limiter, echolimit.Route())
	custom := echolimit.New(limiter, echolimit.ClientIP(),
		echolimit.OnDenied(func(c *echo.Context, _ core.Decision) error {
			_, err := io.WriteString(c.Response(), "denied")
			return err
		}))
	table := core.PerHour("table", 2)
	e.Use(byIP.LimitRoutes(echolimit.Routes{"GET /table": {table}, "RouteNotFound": {core.PerHour("unknown", 1)}}))
	e.GET("/table", ok)
	e.GET("/route", ok, byRoute.Limit(core.PerHour("route", 2)))
	e.GET("/custom", ok, custom.Limit(core.PerHour("custom", 2)))
	failed := echolimit.New(limiter, echolimit.Route(),
		echolimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failed", 2))
	e.GET("/success", ok, failed)
	e.GET("/failure", func(c *echo.Context) error { return c.String(http.StatusUnauthorized, "who?") }, failed)
	e.GET("/failing", func(*echo.Context) error { return echo.ErrUnauthorized }, failed)
	e.GET("/nothing", func(*echo.Context) error { return nil }, failed)
	for _, row := range []struct {
		target   string
		statuses string // of three requests
	}{
		{"/table", "[200 200 429]"},
		{"/route", "[200 200 429]"},
		{"/custom", "[200 200 429]"},
		{"/success", "[200 200 200]"},
		{"/failure", "[401 401 429]"},
		{"/failing", "[401 401 429]"},
		{"/nothing", "[200 200 200]"},
		{"/nowhere", "[404 429 429]"},
	} {
		var statuses []int
		for range 3 {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest("HEAD", row.target, nil))
			statuses = append(statuses, w.Code)
		}
		assert.Equal(t, row.statuses, fmt.Sprint(statuses), row.target)
	}
	// With GET it is the same client.
	assert.Equal(t, http.StatusTooManyRequests, adaptertest.Get(e, "/table").StatusCode)
}

// Echo.Any is one route for all methods that have no route of their own.
func TestAnyIsOneRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	routes := echolimit.Routes{"ANY /files/*": {core.PerHour("files", 2)}, "GET /files/*": nil, "RouteNotFound": nil}
	e.Use(echolimit.New(limiter, echolimit.ClientIP()).LimitRoutes(routes))
	e.Any("/files/*", ok)
	e.GET("/files/*", ok)
	require.NoError(t, routes.CheckAll(e))
	for _, row := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/files/1", 200}, {"POST", "/files/1", 200}, {"GET", "/files/1", 200}, {"BREW", "/files/2", 200},
		{"PUT", "/files/3", 429}, {"GET", "/files/1", 200}, {"ANY", "/files/1", 429}, {"POST", "/nowhere", 404},
	} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(row.method, row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}
