package httplimit

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

var routes = []struct {
	entry string
	want  route
}{
	{"GET /", route{"GET", "/"}},
	{"POST /users/:id/*rest", route{"POST", "/users/:id/*rest"}},
	{"M-SEARCH /a", route{"M-SEARCH", "/a"}},
	{"", route{}},
	{"/login", route{}},
	{"GET", route{}},
	{"GET ", route{}},
	{"GET login", route{}},
	{"get /login", route{}},
	{"GET  /login", route{}},
	{" GET /login", route{}},
	{"GET /login ", route{}},
	{"GET\t/login", route{}},
	{"GET,POST /login", route{}},
	{"* /login", route{}},
	{"GET /search?q=:q", route{}},
	{"GET https://example.com/login", route{}},
}

func TestParseRoute(t *testing.T) {
	for _, row := range routes {
		got, err := parseRoute(row.entry)
		assert.Equal(t, row.want, got, row.entry)
		assert.Equal(t, row.want == route{}, err != nil, row.entry)
	}
}

// A parsed route is written as it was, so no two entries are the same route.
func FuzzParseRoute(f *testing.F) {
	for _, row := range routes {
		f.Add(row.entry)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		if r, err := parseRoute(entry); err == nil {
			require.Equal(t, entry, r.method+" "+r.template)
		} else {
			require.Zero(t, r)
		}
	})
}

func TestRoutePolicies(t *testing.T) {
	login := core.PerMinute("login", 5)
	unknown := core.PerMinute("unknown", 5)
	table := map[string][]core.Limit{"POST /login": {login}, "GET /healthz": nil, "NoRoute": {unknown}}
	find := RoutePolicies[int](table, "NoRoute")
	policy, err := find("POST", "/login")(0)
	require.NoError(t, err)
	assert.Equal(t, []core.Limit{login}, policy.limits)
	policy, err = find("NoRoute", "")(0)
	require.NoError(t, err)
	assert.Equal(t, []core.Limit{unknown}, policy.limits)
	for _, none := range []route{{"GET", "/login"}, {"GET", "/healthz"}, {"POST", "/login/"}, {"", ""}, {"GET", ""}} {
		assert.Nil(t, find(none.method, none.template), none)
	}
	for _, invalid := range []map[string][]core.Limit{
		{"login": {login}},
		{"POST /login": {core.PerMinute("login", 0)}},
		{"POST /login": {login, login}},
		{"NoRoute": {core.PerMinute("login", 0)}},
		{"NoRoute /login": {login}},
		{"RouteNotFound": {login}},
	} {
		assert.Panics(t, func() { RoutePolicies[int](invalid, "NoRoute") }, invalid)
	}
	assert.PanicsWithError(t, `exactlimit: "login" is not a route:`+
		` write the method and the template of a route as it is registered, such as "GET /users/:id",`+
		` or "NoRoute" for requests that match no route`,
		func() { RoutePolicies[int](map[string][]core.Limit{"login": {login}}, "NoRoute") })
}

func TestCheckRoutes(t *testing.T) {
	limits := []core.Limit{core.PerMinute("any", 5)}
	table := map[string][]core.Limit{
		"POST /login": limits, "GET /serach": limits, "GET /login": limits, "GET /healthz": nil,
	}
	routes := []string{"POST /login", "GET /search", "GET /healthz", "GET /search"} // the same route on two hosts
	for _, row := range []struct {
		complete bool
		want     []string
	}{
		{false, []string{
			"exactlimit: Routes does not match the registered routes:",
			"GET /login: has limits, but no such route is registered",
			"GET /serach: has limits, but no such route is registered",
		}},
		{true, []string{
			"exactlimit: Routes does not match the registered routes:",
			"GET /login: has limits, but no such route is registered",
			"GET /search: has no entry: write its limits, or nil if it needs none",
			"GET /serach: has limits, but no such route is registered",
			"NoRoute: has no entry: write the limits of requests that match no route, or nil if they need none",
		}},
	} {
		assert.EqualError(t, CheckRoutes(table, routes, "NoRoute", row.complete), strings.Join(row.want, "\n\t"))
	}
	for _, unmatched := range [][]core.Limit{limits, nil} {
		table["NoRoute"] = unmatched
		routes := []string{"POST /login", "GET /serach", "GET /login", "GET /healthz"}
		assert.NoError(t, CheckRoutes(table, routes, "NoRoute", true))
	}
	assert.NoError(t, CheckRoutes(nil, nil, "NoRoute", false))
}
