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
// Behind proxies, name them: ginlimit.ClientIP(ginlimit.TrustedProxies("10.0.0.0/8")).
//
// A request over its limit is answered with 429, Retry-After and a problem body, and the handlers behind are not run. An
// admitted one carries the RateLimit and RateLimit-Policy fields. Middleware that runs one after the other charges one
// after the other, and the fields tell of all of it; limits given to one Limit are charged all or none. Give limits of
// different keys different names: names are what clients tell them apart by.
//
// While Redis does not answer, each instance limits by itself. A route that must rather be closed then, with 503, has a
// Middleware of its own: ginlimit.New(limiter.OnFailure(core.FailClosed), ginlimit.ClientIP()).
//
// In Gin, Engine.Use affects the routes that are registered after it: Use refuses to come too late. Pages on other origins
// see the fields only if CORS exposes them; put the limiter behind the CORS middleware, so that it does not count
// preflights.
package ginlimit
