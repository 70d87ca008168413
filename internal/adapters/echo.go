package adapters

import (
	"io"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
)

func echoKeys(limiter *core.Limiter, limit core.Limit, proxies []string, log io.Writer) http.Handler {
	e := echo.New()
	e.Logger.SetOutput(log)
	secret := echolimit.HashKey([]byte(secret))
	for path, key := range map[string]echolimit.KeyFunc{
		"/address":  echolimit.ClientIP(echolimit.TrustedProxies(proxies...)),
		"/header":   echolimit.Header("X-API-Key"),
		"/bearer":   echolimit.BearerToken(secret),
		"/cookie":   echolimit.Cookie("session", secret),
		"/query":    echolimit.Query("api_key"),
		"/path/:id": echolimit.PathParam("id"),
		"/join":     echolimit.Join(echolimit.Header("X-API-Key"), echolimit.Route()),
		"/first":    echolimit.FirstOf(echolimit.BearerToken(), echolimit.Header("X-API-Key", secret)),
		"/either": echolimit.FirstOf(echolimit.Header("X-API-Key"), echolimit.BearerToken(),
			echolimit.ClientIP()),
		"/items/:id/votes": echolimit.Join(echolimit.PathParam("id"), echolimit.ClientIP()),
		"/mistake":         echolimit.Join(echolimit.Header("X-API-Key"), echolimit.PathParam("id")),
	} {
		limited := echolimit.New(limiter, key).Limit(limit)
		e.GET(path, func(c echo.Context) error { return c.String(http.StatusOK, body) }, limited)
	}
	return e
}

func echoPage(limiter *core.Limiter, limit core.Limit, origin string) http.Handler {
	e := echo.New()
	e.Use(middleware.CORSWithConfig(middleware.CORSConfig{
		AllowOrigins:  []string{origin},
		AllowHeaders:  []string{"X-API-Key"},
		ExposeHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After"},
	}))
	byKey := echolimit.New(limiter, echolimit.Header("X-API-Key"),
		echolimit.OnDenied(func(c echo.Context, _ core.Decision) error {
			return c.String(http.StatusTooManyRequests, "denied")
		}))
	e.Use(byKey.Limit(limit))
	e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, "results") })
	return e
}

func echoLimited(limiter *core.Limiter, limit core.Limit, proxies []string, handler http.Handler) http.Handler {
	e := echo.New()
	e.Use(echolimit.New(limiter, echolimit.ClientIP(echolimit.TrustedProxies(proxies...))).Limit(limit))
	e.Any("/*", echo.WrapHandler(handler))
	return e
}

func echoGuarded(limiter *core.Limiter, guard core.Limit, proxies []string, handler http.Handler) http.Handler {
	e := echo.New()
	for name, key := range map[string]echolimit.KeyFunc{
		"address": echolimit.ClientIP(echolimit.TrustedProxies(proxies...)),
		"header":  echolimit.Header("X-API-Key"),
		"bearer":  echolimit.BearerToken(),
	} {
		failures := echolimit.New(limiter, key, echolimit.CountOnly(forbidden))
		e.Any("/guarded/"+name, echo.WrapHandler(handler), failures.Limit(guard))
		oneByOne := echolimit.New(limiter, key).Limit(single)
		e.Any("/single/"+name, echo.WrapHandler(handler), oneByOne, failures.Limit(guard))
		e.Any("/open/"+name, echo.WrapHandler(handler), echolimit.New(limiter, key).Limit(unguarded(guard)))
	}
	return e
}
