package echolimit

import (
	"strings"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Routes holds the limits of a whole service in one place: those of each route, by the method and the template with
// which it is registered.
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
// Echo itself does: with 404, with 405 or, to OPTIONS, with 204. The entry of a route of Echo.Any has the method
// ANY. If Echo answers a HEAD request by a route for GET, the limits of that route apply.
//
// A route without an entry has no limits. A misspelled entry is an entry without a route, so check Routes when the
// service starts. Do not change Routes once it is in use.
type Routes map[string][]core.Limit

const (
	routeNotFound = "RouteNotFound" // the entry of Routes for requests that match no route
	anyMethod     = "ANY"           // the method of Echo.Any in entries of Routes
)

// LimitRoutes returns a middleware function that admits the requests of each route under its limits. Add it to a whole
// Echo, by Echo.Use. LimitRoutes panics if an entry is neither "METHOD /template" nor RouteNotFound, or if its
// limits are invalid.
func (m *Middleware) LimitRoutes(routes Routes) echo.MiddlewareFunc {
	find := httplimit.RoutePolicies[*echo.Context](routes, routeNotFound)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			method, template := entryOf(c.RouteInfo())
			if template == "" {
				method = routeNotFound
			}
			if policy := find(method, template); policy != nil {
				return m.limit(c, next, policy)
			}
			return m.callNext(c, next)
		}
	}
}

// entryOf returns the method and the template of a route's entry in Routes. Both are empty if route stands for requests
// that match no route, as Echo's own handlers and those of Echo.RouteNotFound do.
func entryOf(route echo.RouteInfo) (method, template string) {
	switch route.Method {
	case "", echo.RouteNotFound:
		return "", ""
	case echo.RouteAny:
		route.Method = anyMethod
	}
	if !strings.HasPrefix(route.Path, "/") { // Echo matches it with a slash
		route.Path = "/" + route.Path
	}
	return route.Method, route.Path
}

// Check compares the entries with the registered routes. It returns an error that lists the entries without a route.
func (routes Routes) Check(e *echo.Echo) error {
	return httplimit.CheckRoutes(routes, registeredRoutes(e), routeNotFound, false)
}

// CheckAll is Check for services in which every route must have an entry, even a nil one. Its error also lists the
// routes without an entry, and RouteNotFound if it has none.
func (routes Routes) CheckAll(e *echo.Echo) error {
	return httplimit.CheckRoutes(routes, registeredRoutes(e), routeNotFound, true)
}

func registeredRoutes(e *echo.Echo) (routes []string) {
	for _, route := range e.Router().Routes() {
		if method, template := entryOf(route); template != "" {
			routes = append(routes, method+" "+template)
		}
	}
	return routes
}
