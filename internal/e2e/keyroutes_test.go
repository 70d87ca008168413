package e2e

import (
	"net"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// keyRoutes returns a service in one of the frameworks, with routes that count by the keys that the examples do not
// use.
func keyRoutes(t *testing.T, framework string) http.Handler {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	limit, body := core.PerMinute("keys", 3), `{"answer":"yours"}`
	if framework == "ginlimit" {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		for path, key := range map[string]ginlimit.KeyFunc{
			"/either":   ginlimit.FirstOf(ginlimit.Header("X-API-Key"), ginlimit.BearerToken(), ginlimit.ClientIP()),
			"/query":    ginlimit.Query("api_key"),
			"/cookie":   ginlimit.Cookie("session"),
			"/path/:id": ginlimit.PathParam("id"),
		} {
			r.GET(path, ginlimit.New(limiter, key).Limit(limit), func(c *gin.Context) { c.String(http.StatusOK, body) })
		}
		return r
	}
	e := echo.New()
	for path, key := range map[string]echolimit.KeyFunc{
		"/either":   echolimit.FirstOf(echolimit.Header("X-API-Key"), echolimit.BearerToken(), echolimit.ClientIP()),
		"/query":    echolimit.Query("api_key"),
		"/cookie":   echolimit.Cookie("session"),
		"/path/:id": echolimit.PathParam("id"),
	} {
		limited := echolimit.New(limiter, key).Limit(limit)
		e.GET(path, func(c echo.Context) error { return c.String(http.StatusOK, body) }, limited)
	}
	return e
}

// serveKeyRoutes serves keyRoutes over HTTP/1.1 and h2c until the test ends, and returns the address.
func serveKeyRoutes(t *testing.T, framework string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: keyRoutes(t, framework), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}
