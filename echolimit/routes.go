package echolimit

import (
	"sync"

	"github.com/labstack/echo/v4"

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
// Echo itself does: with 404, with 405 or, to OPTIONS, with 204.
//
// A route that is not in it has no limits, and a typing error is a route that is not in it, so check it at start. Do not
// change it once it is in use.
type Routes map[string][]core.Limit

// routeNotFound is what Routes calls the requests that match no route.
const routeNotFound = "RouteNotFound"

// LimitRoutes makes a middleware function that admits the requests of each route under its limits. It is for a whole
// Echo, by Echo.Use. Routes that are registered after the first request may pass for RouteNotFound. So may requests
// whose method was changed after Echo has found their route: MethodOverride belongs into Echo.Pre. It panics if an entry
// is neither "METHOD /template" nor RouteNotFound, or its limits make no sense.
func (m *Middleware) LimitRoutes(routes Routes) echo.MiddlewareFunc {
	find := httplimit.Table[echo.Context](routes, routeNotFound)
	unmatched := find(routeNotFound, "")
	var known sync.Map
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			policy := find(c.Request().Method, c.Path())
			if policy == nil && unmatched != nil && !matched(c, &known) {
				policy = unmatched
			}
			if policy != nil {
				return m.limit(c, next, policy)
			}
			return m.pass(c, next)
		}
	}
}

// matched reports whether a request matched a route. A handler of RouteNotFound has a template as a route has, and
// Echo does not say which of the two it has found. known keeps the routes of each Echo, as they are when its first
// request comes.
func matched(c echo.Context, known *sync.Map) bool {
	if template(c) == "" {
		return false
	}
	routes, found := known.Load(c.Echo())
	if !found {
		all := map[string]bool{}
		for _, route := range registered(c.Echo()) {
			all[route] = true
		}
		routes, _ = known.LoadOrStore(c.Echo(), all)
	}
	return routes.(map[string]bool)[c.Request().Method+" "+c.Path()]
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
	all := e.Routes()
	for _, host := range e.Routers() {
		all = append(all, host.Routes()...)
	}
	for _, route := range all {
		if route.Method != echo.RouteNotFound {
			routes = append(routes, route.Method+" "+route.Path)
		}
	}
	return routes
}
