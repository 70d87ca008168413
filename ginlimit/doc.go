// Package ginlimit limits the requests of a Gin service: exactly, and across all its instances.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL"))
//	...
//	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
//
//	r := gin.New()
//	r.Use(byIP.Limit(core.PerMinute("site", 300)))
//	r.POST("/login", byIP.Limit(core.PerMinute("login", 5)), login)
//
// The README in this directory is the guide. Behind proxies, name the proxies:
// ginlimit.ClientIP(ginlimit.TrustedProxies("10.0.0.0/8")).
//
// A request over its limit is answered with 429, Retry-After and a problem body, and its handler does not run. An
// admitted request gets the RateLimit and RateLimit-Policy fields. Limits on a group and on its routes are charged
// one after the other, and the fields describe all of them. Limits in one call of Limit are charged together or not
// at all. Give limits of different keys different names, because clients tell limits apart by their names.
//
// While Redis does not respond, each instance limits by itself. To refuse the requests of a route instead, with 503,
// give the route its own Middleware: ginlimit.New(limiter.OnFailure(core.FailClosed), ginlimit.ClientIP()).
//
// In Gin, Engine.Use affects only routes that are registered after it: the function Use panics if it is called too
// late. Pages on other origins see the fields only if CORS exposes them. Register the CORS middleware before the
// limiter, so that the limiter does not count preflights.
package ginlimit
