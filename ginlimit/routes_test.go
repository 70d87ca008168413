package ginlimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// Gin does not run middleware on routes that were registered before it.
func TestUseAfterRoutes(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	limit := ginlimit.New(limiter, ginlimit.ClientIP()).Limit(adaptertest.One)
	ginlimit.Use(r, limit)
	r.GET("/login", ok)
	assert.PanicsWithValue(t, "exactlimit: Use on an engine that has routes, such as GET /login:"+
		" Gin would not limit them, so call Use before you register routes",
		func() { ginlimit.Use(r, limit) })
}

// Check lists the entries without a route, and CheckAll also what lacks an entry.
func TestCheckRoutes(t *testing.T) {
	r := gin.New()
	r.GET("/search", ok)
	r.Group("/users").POST("/:id", ok)
	r.NoRoute(ok)
	fits := ginlimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:id": nil, "NoRoute": {adaptertest.One}}
	assert.NoError(t, fits.Check(r))
	assert.NoError(t, fits.CheckAll(r))
	misses := ginlimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(r), "exactlimit: Routes does not match the registered routes:\n"+
		"\tPOST /users/:user: has limits, but no such route is registered")
	assert.EqualError(t, misses.CheckAll(r), "exactlimit: Routes does not match the registered routes:\n"+
		"\tNoRoute: has no entry: write the limits of requests that match no route, or nil if they need none\n"+
		"\tPOST /users/:id: has no entry: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:user: has limits, but no such route is registered")
}

// NoRoute stands for all requests that match no route, and for no others.
func TestLimitsOfRequestsWithoutRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	r.HandleMethodNotAllowed = true
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	ginlimit.Use(r, byIP.LimitRoutes(ginlimit.Routes{
		"GET /search": {adaptertest.Outer},
		"NoRoute":     {adaptertest.Inner},
	}))
	r.GET("/search", ok)
	r.Group("/api", func(*gin.Context) {}).GET("/users/:id", ok)
	r.NoRoute(func(c *gin.Context) { c.Status(http.StatusNotFound) })
	for _, row := range []struct {
		method, target string
		limited        bool
	}{
		{"GET", "/search", true},
		{"GET", "/api/users/1", false},
		{"GET", "/nowhere", true},
		{"BREW", "/search", true},
		{"POST", "/api/users/1", true},
		{"GET", "/api", true},
		{"GET", "/api/nowhere", true},
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.limited, w.Header().Get("Ratelimit") != "", row)
	}
}
