package httplimit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/exactlimit/exactlimit/core"
)

// route is what a service registers a handler for.
type route struct{ method, template string }

// parseRoute reads "METHOD /template".
func parseRoute(s string) (route, error) {
	method, template, found := strings.Cut(s, " ")
	upper := method != "" && strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
	if !found || !upper || !strings.HasPrefix(template, "/") || strings.ContainsAny(template, " ?#") {
		return route{}, fmt.Errorf("exactlimit: %q is not a route:"+
			" write its method and template as they are registered, such as \"GET /users/:id\"", s)
	}
	return route{method, template}, nil
}

// Table prepares the limits of a whole service. What it returns finds the policy of a route, or nil if the route has
// none; the route with method unmatched and no template stands for the requests that match none. It panics if a route
// is written neither as "METHOD /template" nor as unmatched, or its limits make no sense.
func Table[C any](
	limits map[string][]core.Limit, unmatched string,
) func(method, template string) func(C) (*Policy, error) {
	policies := make(map[route]func(C) (*Policy, error), len(limits))
	for _, written := range slices.Sorted(maps.Keys(limits)) {
		r, err := parseRoute(written)
		if written == unmatched {
			r, err = route{method: unmatched}, nil
		}
		if err != nil {
			panic(fmt.Errorf("%w, or %q for requests that match no route", err, unmatched))
		}
		if len(limits[written]) > 0 { // otherwise it is a route without limits, on purpose
			policies[r] = Fixed[C](limits[written])
		}
	}
	return func(method, template string) func(C) (*Policy, error) { return policies[route{method, template}] }
}

// CheckTable compares the limits of a service with its routes, each "METHOD /template". It returns an error that lists the
// entries that are no routes and, if all is set, what has no entry: routes, and the requests that match none.
func CheckTable(limits map[string][]core.Limit, routes []string, unmatched string, all bool) error {
	var wrong []string
	for written := range limits {
		if written != unmatched && !slices.Contains(routes, written) {
			wrong = append(wrong, written+": there are limits for it, and no such route")
		}
	}
	missing := func(entry string) bool {
		_, found := limits[entry]
		return all && !found
	}
	for _, registered := range routes {
		if missing(registered) {
			wrong = append(wrong, registered+": there is no entry for it: write its limits, or nil if it needs none")
		}
	}
	if missing(unmatched) {
		wrong = append(wrong, unmatched+": there is no entry for requests that match no route:"+
			" write their limits, or nil if they need none")
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return errors.New("exactlimit: the table of limits does not fit the routes:\n\t" + strings.Join(slices.Compact(wrong), "\n\t"))
}
