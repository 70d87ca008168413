// Package echolimit limits the requests of an Echo v4 service: exactly, and across all its instances. For Echo v5,
// import github.com/exactlimit/exactlimit/echolimit/v5.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL"))
//	...
//	byIP := echolimit.New(limiter, echolimit.ClientIP())
//
//	e := echo.New()
//	e.Use(byIP.Limit(core.PerMinute("site", 300)))
//	e.POST("/login", login, byIP.Limit(core.PerMinute("login", 5)))
//
// The README in this directory, and that of ginlimit, are the guide. Behind proxies, name them:
// echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8")).
//
// A request over its limit is answered with 429, Retry-After and a problem body, and its handler does not run. An
// admitted request gets the RateLimit and RateLimit-Policy fields. Middleware that runs one after the other charges one
// after the other, and the fields describe all of it. Limits in one call of Limit are all charged or none. Give limits
// of different keys different names, because clients tell limits apart by their names.
//
// While Redis does not answer, each instance limits by itself. If a route should rather be closed then, with 503, give
// it a Middleware of its own: echolimit.New(limiter.OnFailure(core.FailClosed), echolimit.ClientIP()).
//
// Use it with e.Use, on groups and on routes. In e.Pre there is no route yet. In Echo, a group with middleware also
// answers unknown paths below it, so they are counted; in Gin they are not. Pages on other origins see the fields only
// if CORS exposes them. Register the CORS middleware before the limiter, so that the limiter does not count preflights.
package echolimit
