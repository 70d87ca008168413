// Package echolimit limits the requests of an Echo v4 service: exactly, and across all its instances. For Echo v5, import
// github.com/exactlimit/exactlimit/echolimit/v5.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL"))
//	...
//	byIP := echolimit.New(limiter, echolimit.ClientIP())
//
//	e := echo.New()
//	e.Use(byIP.Limit(core.PerMinute("site", 300)))
//	e.POST("/login", login, byIP.Limit(core.PerMinute("login", 5)))
//
// Behind proxies, name them: echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8")).
//
// A request over its limit is answered with 429, Retry-After and a problem body, and the handlers behind are not run. An
// admitted one carries the RateLimit and RateLimit-Policy fields. Middleware that runs one after the other charges one
// after the other, and the fields tell of all of it; limits given to one Limit are charged all or none. Give limits of
// different keys different names: names are what clients tell them apart by.
//
// While Redis does not answer, each instance limits by itself. A route that must rather be closed then, with 503, has a
// Middleware of its own: echolimit.New(limiter.OnFailure(core.FailClosed), echolimit.ClientIP()).
//
// Use it with e.Use, on groups and on routes. In e.Pre there is no route yet. A group with middleware answers unknown paths
// below it too, in Echo, so they are counted; in Gin they are not. Pages on other origins see the fields only if
// CORS exposes them; put the limiter behind the CORS middleware, so that it does not count preflights.
package echolimit
