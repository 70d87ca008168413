package adapters

import (
	"fmt"
	"io"
	"net/http"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

func ginKeys(limiter *core.Limiter, limit core.Limit, proxies []string, log io.Writer) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(func(c *gin.Context) {
		c.Next()
		fmt.Fprintln(log, c.Errors.String())
	})
	secret := ginlimit.HashKey([]byte(secret))
	for path, key := range map[string]ginlimit.KeyFunc{
		"/address":         ginlimit.ClientIP(ginlimit.TrustedProxies(proxies...)),
		"/header":          ginlimit.Header("X-API-Key"),
		"/bearer":          ginlimit.BearerToken(secret),
		"/cookie":          ginlimit.Cookie("session", secret),
		"/query":           ginlimit.Query("api_key"),
		"/path/:id":        ginlimit.PathParam("id"),
		"/join":            ginlimit.Join(ginlimit.Header("X-API-Key"), ginlimit.Route()),
		"/first":           ginlimit.FirstOf(ginlimit.BearerToken(), ginlimit.Header("X-API-Key", secret)),
		"/either":          ginlimit.FirstOf(ginlimit.Header("X-API-Key"), ginlimit.BearerToken(), ginlimit.ClientIP()),
		"/items/:id/votes": ginlimit.Join(ginlimit.PathParam("id"), ginlimit.ClientIP()),
		"/mistake":         ginlimit.Join(ginlimit.Header("X-API-Key"), ginlimit.PathParam("id")),
	} {
		r.GET(path, ginlimit.New(limiter, key).Limit(limit), func(c *gin.Context) { c.String(http.StatusOK, body) })
	}
	return r
}

func ginPage(limiter *core.Limiter, limit core.Limit, origin string) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(cors.New(cors.Config{
		AllowOrigins:  []string{origin},
		AllowHeaders:  []string{"X-API-Key"},
		ExposeHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After"},
	}))
	byKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"),
		ginlimit.OnDenied(func(c *gin.Context, _ core.Decision) {
			c.String(http.StatusTooManyRequests, "denied")
		}))
	r.Use(byKey.Limit(limit))
	r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "results") })
	return r
}

func ginLimited(limiter *core.Limiter, limit core.Limit, proxies []string, handler http.Handler) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies(proxies...))).Limit(limit))
	r.Any("/*path", gin.WrapH(handler))
	return r
}

func ginGuarded(limiter *core.Limiter, guard core.Limit, proxies []string, handler http.Handler) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	for name, key := range map[string]ginlimit.KeyFunc{
		"address": ginlimit.ClientIP(ginlimit.TrustedProxies(proxies...)),
		"header":  ginlimit.Header("X-API-Key"),
		"bearer":  ginlimit.BearerToken(),
	} {
		failures := ginlimit.New(limiter, key, ginlimit.CountOnly(forbidden))
		r.Any("/guarded/"+name, failures.Limit(guard), gin.WrapH(handler))
		r.Any("/single/"+name, ginlimit.New(limiter, key).Limit(single), failures.Limit(guard), gin.WrapH(handler))
		r.Any("/open/"+name, ginlimit.New(limiter, key).Limit(unguarded(guard)), gin.WrapH(handler))
	}
	return r
}
