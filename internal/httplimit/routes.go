package httplimit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/exactlimit/exactlimit/core"
)

// route identifies a route of a service.
type route struct{ method, template string }

// parseRoute parses "METHOD /template".
func parseRoute(s string) (route, error) {
	method, template, found := strings.Cut(s, " ")
	upper := method != "" && strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
	if !found || !upper || !strings.HasPrefix(template, "/") || strings.ContainsAny(template, " ?#") {
		return route{}, fmt.Errorf("exactlimit: %q is not a route:"+
			" write the method and the template of a route as it is registered, such as \"GET /users/:id\"", s)
	}
	return route{method, template}, nil
}

// RoutePolicies prepares the limits of a whole service. It returns a function that finds the policy of a route, or nil
// if the route has none. The method unmatched without a template stands for the requests that match no route.
// RoutePolicies panics if an entry is neither "METHOD /template" nor unmatched, or if its limits are invalid.
func RoutePolicies[C any](
	limits map[string][]core.Limit, unmatched string,
) func(method, template string) func(C) (*Policy, error) {
	policies := make(map[route]func(C) (*Policy, error), len(limits))
	for _, entry := range slices.Sorted(maps.Keys(limits)) {
		r, err := parseRoute(entry)
		if entry == unmatched {
			r, err = route{method: unmatched}, nil
		}
		if err != nil {
			panic(fmt.Errorf("%w, or %q for requests that match no route", err, unmatched))
		}
		if len(limits[entry]) > 0 { // otherwise the route has no limits on purpose
			policies[r] = FixedPolicy[C](limits[entry])
		}
	}
	return func(method, template string) func(C) (*Policy, error) { return policies[route{method, template}] }
}

// CheckRoutes compares the limits of a service with its routes, each "METHOD /template". It returns an error that lists
// the entries without a route and, if complete is true, what lacks an entry: routes, and the requests that match none.
func CheckRoutes(limits map[string][]core.Limit, routes []string, unmatched string, complete bool) error {
	var mismatches []string
	for entry := range limits {
		if entry != unmatched && !slices.Contains(routes, entry) {
			mismatches = append(mismatches, entry+": has limits, but no such route is registered")
		}
	}
	lacksEntry := func(route string) bool {
		_, found := limits[route]
		return complete && !found
	}
	for _, route := range routes {
		if lacksEntry(route) {
			mismatches = append(mismatches, route+": has no entry: write its limits, or nil if it needs none")
		}
	}
	if lacksEntry(unmatched) {
		mismatches = append(mismatches, unmatched+": has no entry: write the limits of requests that match no route,"+
			" or nil if they need none")
	}
	if len(mismatches) == 0 {
		return nil
	}
	slices.Sort(mismatches)
	return errors.New("exactlimit: Routes does not match the registered routes:\n\t" +
		strings.Join(slices.Compact(mismatches), "\n\t"))
}
