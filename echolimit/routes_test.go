package echolimit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
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
	e.Host("api.example.com").GET("/search", ok)
	e.GET("reports", ok) // Echo matches it with a slash
	e.RouteNotFound("/*", ok)
	one := []core.Limit{adaptertest.One}
	fits := echolimit.Routes{"GET /search": one, "POST /users/:id": nil, "GET /reports": one, "RouteNotFound": one}
	assert.NoError(t, fits.Check(e))
	assert.NoError(t, fits.CheckAll(e))
	misses := echolimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(e), "exactlimit: Routes does not match the registered routes:\n"+
		"\tPOST /users/:user: has limits, but no such route is registered")
	assert.EqualError(t, misses.CheckAll(e), "exactlimit: Routes does not match the registered routes:\n"+
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
