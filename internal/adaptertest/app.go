package adaptertest

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// App returns a service with the routes below, which use limiter. A route is for GET and its handler is OK, unless
// stated otherwise. Options and functions without a package are those of the adapter, the others are of this package.
//
//	/one       ClientIP, One; also for HEAD and OPTIONS
//	/several   ClientIP, Burst and Sustained in one Limit
//	/stacked   ClientIP, Outer on a group and Inner on the route
//	/deep      ClientIP, Outer on a group, Burst and Sustained on a group in it, and Inner on the route
//	/twice     ClientIP, One on a group and again on the route
//	/keys      Header("X-API-Key"), Inner on a group, and ClientIP, One on the route
//	/table/:id ClientIP, One by LimitRoutes on the whole service, Outer on a group, and Inner on the route
//	/free      ClientIP, no limits by the same LimitRoutes
//	/quoted    ClientIP, Quoted
//	/legacy    ClientIP, LegacyFields, Outer on a group, and Burst and Inner on the route
//	/secret    ClientIP, NoFields, One
//	/text      Header("X-API-Key"), PlainText, One
//	/begun     ClientIP, One, behind middleware that calls Begin
//	/panic     ClientIP, One, behind middleware that responds to panics with Recovered; the handler panics
//	/upgrade   ClientIP, One; the handler calls Upgrade
//	/header    Header("X-API-Key"), One
//	/first     FirstOf(Header("X-API-Key"), ClientIP()), One
//	/bearer    BearerToken, One
//	/cookie    Cookie("session"), One
//	/query     Query("api_key", HashKey(Secret)), One
//	/path/:id  PathParam("id"), One
//	/path      PathParam("id"), One, which is a configuration error
//	/route/:id Route, One
//	/join/:id  Join(PathParam("id"), ClientIP()), One
//	/global    Global, One
//	/own       OwnKey of the query's "user", One
//	/plan      ClientIP, LimitFunc with Plan of the header X-Plan
//	/denied    ClientIP, One, with Denied as OnDenied
//	/proxied   ClientIP(TrustedProxies("10.0.0.0/8", "unix")), One
//	/framework FrameworkClientIP, One, with a framework that trusts headers from any client, as Gin and Echo v4 do by
//	           default and Echo v5 does not
//	/silent    ClientIP, One, with an OnDenied that does nothing
//	/cost      ClientIP, Cost as Number of the query's "cost", Outer
//	/failures  ClientIP, CountOnly with Failed, One; the handler responds with Number of the query's "status"
//	/guard     ClientIP, CountOnly with Failed, Guard; the handler responds with Number of the query's "status"
//	/vault     ClientIP, CountOnly with Failed, Vault; the handler calls Attempt with Number of the query's "status"
//	/tokens    ClientIP, Outer on a group, and Cost as Number of the query's "cost", Tokens on the route
//	/logins    ClientIP, CountOnly with Failed, Logins; the handler calls Attempt with Number of the query's "status"
//	/exempt    Header("X-API-Key"), Exempt with Staff of the header X-Staff, One; below it, /exempt/plan by LimitFunc
//	           with Plan, /exempt/table by LimitRoutes, and /exempt/failures with CountOnly and Failed, whose handler
//	           responds with 404
//	/dry       Header("X-API-Key"), DryRun, Cost as Number of the query's "cost", One
//	/answered  ClientIP, LimitFunc with a function that calls Refuse and returns an error
//	/given     ClientIP, CountOnly with Failed, Inner; the handler calls Handle
//	/actions   ClientIP, CountOnly with Succeeded, Inner; the handler calls Handle
//	/mapped    ClientIP, CountOnly with Failed, One; the handler returns the error Status of the query's "status"
//	/mapping   the same, with middleware behind the limiter that responds to errors with Render
//	/settled   ClientIP, Cost and CostAfter as Number of the query's "cost" and "actual", Outer
//	/spent     the same, Spent; the handler calls Handle
//	/tried     the same, CountOnly with Failed, Spent; the handler calls Handle
//	/fails     as /tried; the handler returns the error Status of the query's "status"
//	/flight    ClientIP, Flight; the handler calls Handle; below it, /flight/several with Flight and Inner in one
//	           Limit, /flight/dry with DryRun, /flight/failures with CountOnly and Failed, Flight and Inner, and
//	           /flight/mapped, CountOnly and Failed, Inner and Flight, whose handler returns the error Status of the
//	           query's "status"
//
// Requests that match no route are under Unknown by the same LimitRoutes, and their handler is NotFound. The outermost
// middleware responds to the errors of a request with Render after its handlers have run, as the error middleware of
// many services does.
type App func(limiter *core.Limiter) http.Handler

// These are the limits of App.
var (
	One       = core.Limit{Name: "one", Max: 2, Window: 10 * time.Second}
	Burst     = core.PerSecond("burst", 2)
	Sustained = core.PerMinute("sustained", 3)
	Outer     = core.PerMinute("outer", 3)
	Inner     = core.PerHour("inner", 2)
	Unknown   = core.Limit{Name: "unknown", Max: 2, Window: 10 * time.Second}
	Guard     = core.Limit{Name: "guard", Max: 2, Window: 10 * time.Second, Ban: time.Minute}
	Tokens    = core.Limit{Name: "tokens", Max: 500, Window: time.Minute, Unit: "tokens"}
	Flight    = core.InFlight("flight", 2, 30*time.Second)
	Quoted    = core.Limit{Name: `a "quoted" \ name`, Max: 1, Window: 1500 * time.Millisecond}
)

// Secret is the secret of HashKey.
var Secret = []byte("0123456789abcdef")

// OwnKey is an example of a key function that a service may have.
func OwnKey(user string) (string, error) {
	if user == "broken" {
		return "", errors.New("connecting to postgres://admin:hunter2@db failed")
	}
	return user, nil
}

// Plan is an example of a function for LimitFunc that a service may have.
func Plan(plan string) ([]core.Limit, error) {
	switch plan {
	case "pro":
		return []core.Limit{core.PerMinute("plan", 2)}, nil
	case "flight":
		return []core.Limit{Flight}, nil
	case "free":
		return []core.Limit{core.PerMinute("plan", 1)}, nil
	case "invalid":
		return []core.Limit{{Name: "plan"}}, nil
	case "broken":
		return nil, errors.New("connecting to postgres://admin:hunter2@db failed")
	}
	return nil, nil
}

// Number parses a number in the query.
func Number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// Staff is an example of a function for Exempt that a service may have.
func Staff(header string) bool { return header == "yes" }

// Failed reports whether status is that of a failure.
func Failed(status int) bool { return status >= 400 }

// Succeeded reports whether status is that of a success.
func Succeeded(status int) bool { return status < 300 }
