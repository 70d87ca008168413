package echolimit

import (
	"strings"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Routes is the limits of a whole service in one place: those of each route, by its method and template as they are
// registered.
//
//	routes := echolimit.Routes{
//		"GET /search":   {core.PerSecond("search", 5)},
//		"POST /login":   {core.PerMinute("login", 5)},
//		"GET /healthz":  nil, // without limits, on purpose
//		"RouteNotFound": {core.PerMinute("unknown", 30)},
//	}
//	e.Use(byIP.LimitRoutes(routes))
//	...
//	if err := routes.CheckAll(e); err != nil {
//		log.Fatal(err)
//	}
//
// RouteNotFound stands for all requests that match no route, whether handlers of Echo.RouteNotFound answer them or
// Echo itself does: with 404, with 405 or, to OPTIONS, with 204. A route of Echo.Any is written with the method ANY, and
// a HEAD that Echo answers by a route for GET is under that route's limits.
//
// A route that is not in it has no limits, and a typing error is a route that is not in it, so check it at start. Do not
// change it once it is in use.
type Routes map[string][]core.Limit

const (
	routeNotFound = "RouteNotFound" // what Routes calls the requests that match no route
	anyMethod     = "ANY"           // what Routes calls the method of Echo.Any
)

// LimitRoutes makes a middleware function that admits the requests of each route under its limits. It is for a whole
// Echo, by Echo.Use. It panics if an entry is neither "METHOD /template" nor RouteNotFound, or its limits make no
// sense.
func (m *Middleware) LimitRoutes(routes Routes) echo.MiddlewareFunc {
	find := httplimit.Table[*echo.Context](routes, routeNotFound)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			method, template := matched(c.RouteInfo())
			if template == "" {
				method = routeNotFound
			}
			if policy := find(method, template); policy != nil {
				return m.limit(c, next, policy)
			}
			return m.pass(c, next)
		}
	}
}

// matched returns the method and template of a route, as Routes has them; nothing if it is none. What answers requests
// that match no route is none: Echo's own, and handlers of Echo.RouteNotFound.
func matched(route echo.RouteInfo) (method, template string) {
	switch route.Method {
	case "", echo.RouteNotFound:
		return "", ""
	case echo.RouteAny:
		route.Method = anyMethod
	}
	if !strings.HasPrefix(route.Path, "/") { // with which Echo matches it
		route.Path = "/" + route.Path
	}
	return route.Method, route.Path
}

// Check compares the table with the registered routes. It returns an error that lists the entries without a route.
func (routes Routes) Check(e *echo.Echo) error {
	return httplimit.CheckTable(routes, registered(e), routeNotFound, false)
}

// CheckAll is Check for services in which each request has an entry, even a nil one. Its error also lists the routes
// without an entry, and RouteNotFound if it has none.
func (routes Routes) CheckAll(e *echo.Echo) error {
	return httplimit.CheckTable(routes, registered(e), routeNotFound, true)
}

func registered(e *echo.Echo) (routes []string) {
	for _, route := range e.Router().Routes() {
		if method, template := matched(route); template != "" {
			routes = append(routes, method+" "+template)
		}
	}
	return routes
}
