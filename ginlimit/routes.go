package ginlimit

import (
	"fmt"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Routes holds the limits of a whole service in one place: those of each route, by the method and the template with
// which it is registered.
//
//	routes := ginlimit.Routes{
//		"GET /search":  {core.PerSecond("search", 5)},
//		"POST /login":  {core.PerMinute("login", 5)},
//		"GET /healthz": nil, // without limits, on purpose
//		"NoRoute":      {core.PerMinute("unknown", 30)},
//	}
//	ginlimit.Use(r, byIP.LimitRoutes(routes))
//	...
//	if err := routes.CheckAll(r); err != nil {
//		log.Fatal(err)
//	}
//
// NoRoute stands for all requests that match no route, whether handlers of Engine.NoRoute or Engine.NoMethod answer
// them or Gin itself does.
//
// A route without an entry has no limits. A misspelled entry is an entry without a route, so check Routes when the
// service starts. Do not change Routes once it is in use.
type Routes map[string][]core.Limit

// noRoute is the entry of Routes for requests that match no route.
const noRoute = "NoRoute"

// LimitRoutes returns a handler that admits the requests of each route under its limits. Add it to a whole engine,
// before its routes are registered. Add it before middleware that changes the method of a request, because Gin has
// found the route by then. LimitRoutes panics if an entry is neither "METHOD /template" nor NoRoute, or if its
// limits are invalid.
func (m *Middleware) LimitRoutes(routes Routes) gin.HandlerFunc {
	find := httplimit.RoutePolicies[*gin.Context](routes, noRoute)
	return func(c *gin.Context) {
		method, template := c.Request.Method, c.FullPath()
		if template == "" {
			method = noRoute
		}
		if policy := find(method, template); policy != nil {
			m.limit(c, policy)
		}
	}
}

// Check compares the entries with the registered routes. It returns an error that lists the entries without a route.
func (routes Routes) Check(r *gin.Engine) error {
	return httplimit.CheckRoutes(routes, registeredRoutes(r), noRoute, false)
}

// CheckAll is Check for services in which every route must have an entry, even a nil one. Its error also lists the
// routes without an entry, and NoRoute if it has none.
func (routes Routes) CheckAll(r *gin.Engine) error {
	return httplimit.CheckRoutes(routes, registeredRoutes(r), noRoute, true)
}

func registeredRoutes(r *gin.Engine) (routes []string) {
	for _, route := range r.Routes() {
		routes = append(routes, route.Method+" "+route.Path)
	}
	return routes
}

// Use is r.Use for limits. It panics if the engine has routes already, because Gin would not limit them.
func Use(r *gin.Engine, limits ...gin.HandlerFunc) {
	if routes := registeredRoutes(r); len(routes) > 0 {
		panic(fmt.Sprintf("exactlimit: Use on an engine that has routes, such as %s:"+
			" Gin would not limit them, so call Use before you register routes", routes[0]))
	}
	r.Use(limits...)
}
