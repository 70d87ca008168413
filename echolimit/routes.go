package echolimit

import (
	"sync"

	"github.com/labstack/echo/v4"

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
// Echo itself does: with 404, with 405 or, to OPTIONS, with 204.
//
// A route without an entry has no limits. A misspelled entry is an entry without a route, so check Routes when the
// service starts. Do not change Routes once it is in use.
type Routes map[string][]core.Limit

// routeNotFound is the entry of Routes for requests that match no route.
const routeNotFound = "RouteNotFound"

// LimitRoutes returns a middleware function that admits the requests of each route under its limits. Add it to a whole
// Echo, by Echo.Use. Routes that are registered after the first request may be limited as RouteNotFound. So may
// requests whose method was changed after Echo found their route, so use MethodOverride in Echo.Pre. LimitRoutes
// panics if an entry is neither "METHOD /template" nor RouteNotFound, or if its limits are invalid.
func (m *Middleware) LimitRoutes(routes Routes) echo.MiddlewareFunc {
	find := httplimit.RoutePolicies[echo.Context](routes, routeNotFound)
	unmatched := find(routeNotFound, "")
	var routesOf sync.Map
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			policy := find(c.Request().Method, c.Path())
			if policy == nil && unmatched != nil && !matchesRoute(c, &routesOf) {
				policy = unmatched
			}
			if policy != nil {
				return m.limit(c, next, policy)
			}
			return m.callNext(c, next)
		}
	}
}

// matchesRoute reports whether a request matched a route. Like a route, a handler of Echo.RouteNotFound has a template,
// and Echo does not tell which of the two it has found. routesOf caches the routes of each Echo, as they were at its
// first request.
func matchesRoute(c echo.Context, routesOf *sync.Map) bool {
	if template(c) == "" {
		return false
	}
	routes, found := routesOf.Load(c.Echo())
	if !found {
		set := map[string]bool{}
		for _, route := range registeredRoutes(c.Echo()) {
			set[route] = true
		}
		routes, _ = routesOf.LoadOrStore(c.Echo(), set)
	}
	return routes.(map[string]bool)[c.Request().Method+" "+c.Path()]
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
