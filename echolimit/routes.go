package echolimit

import (
	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Routes is the limits of a whole service in one place: those of each route, by its method and template as they are
// registered.
//
//	routes := echolimit.Routes{
//		"GET /search":  {core.PerSecond("search", 5)},
//		"POST /login":  {core.PerMinute("login", 5)},
//		"GET /healthz": nil, // without limits, on purpose
//	}
//	e.Use(byIP.LimitRoutes(routes))
//	...
//	if err := routes.CheckAll(e); err != nil {
//		log.Fatal(err)
//	}
//
// A route that is not in it has no limits, and a typing error is a route that is not in it, so check it at start. Do not
// change it once it is in use.
type Routes map[string][]core.Limit

// LimitRoutes makes a middleware function that admits the requests of each route under its limits. It is for a whole Echo,
// by Echo.Use. It panics if a route is not written as "METHOD /template", or its limits make no sense.
func (m *Middleware) LimitRoutes(routes Routes) echo.MiddlewareFunc {
	find := httplimit.Table[echo.Context](routes)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if policy := find(c.Request().Method, c.Path()); policy != nil {
				return m.limit(c, next, policy)
			}
			return m.pass(c, next)
		}
	}
}

// Check compares the table with the routes that are registered. Its error lists the entries that are no routes.
func (routes Routes) Check(e *echo.Echo) error {
	return httplimit.CheckTable(routes, registered(e), false)
}

// CheckAll is Check for services whose routes all have an entry, be it nil. Its error lists those that have none, too.
func (routes Routes) CheckAll(e *echo.Echo) error {
	return httplimit.CheckTable(routes, registered(e), true)
}

func registered(e *echo.Echo) (routes []string) {
	all := e.Routes()
	for _, host := range e.Routers() {
		all = append(all, host.Routes()...)
	}
	for _, route := range all {
		if route.Method != echo.RouteNotFound { // as a group with middleware registers it for what has no route
			routes = append(routes, route.Method+" "+route.Path)
		}
	}
	return routes
}
