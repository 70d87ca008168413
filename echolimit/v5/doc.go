// Package echolimit limits the requests of an Echo v5 service: exactly, and across all its instances.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL"))
//	...
//	byIP := echolimit.New(limiter, echolimit.ClientIP())
//
//	e := echo.New()
//	e.Use(byIP.Limit(core.PerMinute("site", 300)))
//	e.POST("/login", login, byIP.Limit(core.PerMinute("login", 5)))
//
// The READMEs of echolimit and ginlimit are the guide. Behind proxies, name the proxies:
// echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8")).
//
// A request over its limit is answered with 429, Retry-After and a problem body, and its handler does not run. An
// admitted request gets the RateLimit and RateLimit-Policy fields. Limits on a group and on its routes are charged
// one after the other, and the fields describe all of them. Limits in one call of Limit are charged together or not
// at all. Give limits of different keys different names, because clients tell limits apart by their names.
//
// While Redis does not respond, each instance limits by itself. To refuse the requests of a route instead, with 503,
// give the route its own Middleware: echolimit.New(limiter.OnFailure(core.FailClosed), echolimit.ClientIP()).
//
// Register limits with e.Use, on groups and on routes. In e.Pre, requests have no route yet. In Echo, the middleware
// of a group also runs for unknown paths below it, so they are counted. In Gin it does not. Pages on other origins
// see the fields only if CORS exposes them. Register the CORS middleware before the limiter, so that the limiter
// does not count preflights.
package echolimit
