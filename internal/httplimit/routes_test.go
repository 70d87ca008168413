package httplimit

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

var routesWritten = []struct {
	written string
	is      route
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
	for _, row := range routesWritten {
		got, err := parseRoute(row.written)
		assert.Equal(t, row.is, got, row.written)
		assert.Equal(t, row.is == route{}, err != nil, row.written)
	}
}

// A route that is read is written as it was, so none stands in for another.
func FuzzParseRoute(f *testing.F) {
	for _, row := range routesWritten {
		f.Add(row.written)
	}
	f.Fuzz(func(t *testing.T, written string) {
		if r, err := parseRoute(written); err == nil {
			require.Equal(t, written, r.method+" "+r.template)
		} else {
			require.Zero(t, r)
		}
	})
}

func TestTable(t *testing.T) {
	login := core.PerMinute("login", 5)
	find := Table[int](map[string][]core.Limit{"POST /login": {login}, "GET /healthz": nil})
	policy, err := find("POST", "/login")(0)
	require.NoError(t, err)
	assert.Equal(t, []core.Limit{login}, policy.limits)
	for _, none := range []route{{"GET", "/login"}, {"GET", "/healthz"}, {"POST", "/login/"}, {"", ""}} {
		assert.Nil(t, find(none.method, none.template), none)
	}
	for _, mistake := range []map[string][]core.Limit{
		{"login": {login}},
		{"POST /login": {core.PerMinute("login", 0)}},
		{"POST /login": {login, login}},
	} {
		assert.Panics(t, func() { Table[int](mistake) }, mistake)
	}
}

func TestCheckTable(t *testing.T) {
	limits := []core.Limit{core.PerMinute("any", 5)}
	table := map[string][]core.Limit{"POST /login": limits, "GET /serach": limits, "GET /login": limits, "GET /healthz": nil}
	routes := []string{"POST /login", "GET /search", "GET /healthz", "GET /search"} // of two hosts
	for _, row := range []struct {
		all  bool
		want []string
	}{
		{false, []string{
			"exactlimit: the table of limits does not fit the routes:",
			"GET /login: there are limits for it, and no such route",
			"GET /serach: there are limits for it, and no such route",
		}},
		{true, []string{
			"exactlimit: the table of limits does not fit the routes:",
			"GET /login: there are limits for it, and no such route",
			"GET /search: there is no entry for it: write its limits, or nil if it needs none",
			"GET /serach: there are limits for it, and no such route",
		}},
	} {
		assert.EqualError(t, CheckTable(table, routes, row.all), strings.Join(row.want, "\n\t"))
	}
	assert.NoError(t, CheckTable(table, []string{"POST /login", "GET /serach", "GET /login", "GET /healthz"}, true))
	assert.NoError(t, CheckTable(nil, nil, true))
}
