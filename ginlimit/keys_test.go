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

// FrameworkClientIP counts by what Gin finds, if Engine.SetTrustedProxies was called, with proxies or without.
func TestFrameworkClientIP(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	for _, row := range []struct {
		name    string
		trusted []string
		status  int // of the second request, whose header has another address
	}{
		{"no proxy", nil, http.StatusTooManyRequests},
		{"another proxy", []string{"10.0.0.0/8"}, http.StatusTooManyRequests},
		{"the peer", []string{"192.0.2.1"}, http.StatusOK},
	} {
		r := gin.New()
		require.NoError(t, r.SetTrustedProxies(row.trusted))
		r.GET("/", ginlimit.New(limiter, ginlimit.FrameworkClientIP()).Limit(core.PerMinute(row.name, 1)), ok)
		assert.Equal(t, http.StatusOK, adaptertest.Get(r, "/", "X-Forwarded-For: 203.0.113.7").StatusCode, row.name)
		assert.Equal(t, row.status, adaptertest.Get(r, "/", "X-Forwarded-For: 203.0.113.8").StatusCode, row.name)
		assert.Equal(t, http.StatusTooManyRequests,
			adaptertest.Get(r, "/", "X-Forwarded-For: ::ffff:203.0.113.7").StatusCode,
			row.name)
	}
}

// One key function may serve several engines. It checks the trusted proxies of each, over IPv4 and IPv6.
func TestFrameworkClientIPChecksEachEngine(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := ginlimit.New(limiter, ginlimit.FrameworkClientIP()).Limit(core.PerMinute("shared", 100))
	for _, row := range []struct {
		name    string
		trusted []string
		status  int
	}{
		{"no proxy", nil, http.StatusOK},
		{"default", []string{"the default of gin.New"}, http.StatusInternalServerError},
		{"proxies", []string{"10.0.0.0/8", "fd00::/8", "2400:cb00::/32"}, http.StatusOK},
		{"all of IPv4", []string{"0.0.0.0/0"}, http.StatusInternalServerError},
		{"all of IPv6", []string{"::/0"}, http.StatusInternalServerError},
		{"all of IPv6 that is assigned", []string{"10.0.0.0/8", "2000::/3"}, http.StatusInternalServerError},
		{"all of IPv4, mapped", []string{"::ffff:0.0.0.0/96"}, http.StatusInternalServerError},
		{"no proxy again", nil, http.StatusOK},
	} {
		r := gin.New()
		if row.name != "default" {
			require.NoError(t, r.SetTrustedProxies(row.trusted))
		}
		r.GET("/", limit, func(c *gin.Context) {
			assert.Equal(t, "192.0.2.1:1234", c.Request.RemoteAddr, "the request is restored")
			ok(c)
		})
		for range 2 {
			assert.Equal(t, row.status, adaptertest.Get(r, "/").StatusCode, row.name)
		}
	}
}

// All requests that match no route are one client, which is not the client of a route.
func TestUnmatchedPathsAreOneClient(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byRoute := ginlimit.New(limiter, ginlimit.Route())
	r := gin.New()
	r.Use(byRoute.Limit(adaptertest.One))
	r.GET("/users/:id", ok)
	r.HandleMethodNotAllowed = true
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
		r.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}
