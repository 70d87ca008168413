package ginlimit

import (
	"fmt"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Routes is the limits of a whole service in one place: those of each route, by its method and template as they are
// registered.
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
// A route that is not in it has no limits, and a typing error is a route that is not in it, so check it at start. Do not
// change it once it is in use.
type Routes map[string][]core.Limit

// noRoute is what Routes calls the requests that match no route.
const noRoute = "NoRoute"

// LimitRoutes makes a handler that admits the requests of each route under its limits. It is for a whole engine, before its
// routes are registered, and before middleware that changes the method of a request, which by then has its route. It
// panics if an entry is neither "METHOD /template" nor NoRoute, or its limits make no sense.
func (m *Middleware) LimitRoutes(routes Routes) gin.HandlerFunc {
	find := httplimit.Table[*gin.Context](routes, noRoute)
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

// Check compares the table with the registered routes. It returns an error that lists the entries without a route.
func (routes Routes) Check(r *gin.Engine) error {
	return httplimit.CheckTable(routes, registered(r), noRoute, false)
}

// CheckAll is Check for services in which each request has an entry, even a nil one. Its error also lists the routes
// without an entry, and NoRoute if it has none.
func (routes Routes) CheckAll(r *gin.Engine) error {
	return httplimit.CheckTable(routes, registered(r), noRoute, true)
}

func registered(r *gin.Engine) (routes []string) {
	for _, route := range r.Routes() {
		routes = append(routes, route.Method+" "+route.Path)
	}
	return routes
}

// Use is r.Use for limits. It panics if the engine has routes already, because Gin would leave those without limits.
func Use(r *gin.Engine, limits ...gin.HandlerFunc) {
	if routes := registered(r); len(routes) > 0 {
		panic(fmt.Sprintf("exactlimit: Use on an engine that has routes, such as %s:"+
			" Gin would leave them without limits, so call it before", routes[0]))
	}
	r.Use(limits...)
}
