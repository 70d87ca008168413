package adaptertest

import (
	"strings"
	"time"
)

// request is an event on the timeline of a row.
type request struct {
	at     time.Duration
	method string // GET if empty
	target string
	from   string // 192.0.2.1:1234 if empty
	header string // lines of "Name: value"
}

const ms = time.Millisecond

var table = []struct {
	name     string
	requests []request
}{
	{"one", []request{
		{target: "/one"},
		{at: 3300 * ms, target: "/one"},
		{at: 3300 * ms, target: "/one"}, // denied: 6.7 s rounded up
		{at: 9999 * ms, target: "/one"}, // one millisecond too early
		{at: 10000 * ms, target: "/one"},
		{at: 10000 * ms, target: "/one", from: "192.0.2.2:1234"},
		{at: 60000 * ms, target: "/one"},
	}},
	{"several", []request{
		{target: "/several"},
		{target: "/several"},
		{target: "/several"}, // burst is full
		{at: 1000 * ms, target: "/several"},
		{at: 1000 * ms, target: "/several"}, // sustained is full
		{at: 60000 * ms, target: "/several"},
	}},
	{"stacked", []request{
		{target: "/stacked"},
		{target: "/stacked"},
		{target: "/stacked"}, // denied by inner, but charged to outer
		{target: "/stacked"}, // denied by outer, so not decided by inner
	}},
	{"deep", []request{
		{target: "/deep"},
		{target: "/deep"},
		{target: "/deep"}, // burst is full for a second, and outer for a minute since this request
		{at: 1000 * ms, target: "/deep"},
	}},
	{"twice", []request{{target: "/twice"}, {target: "/twice"}}}, // charged twice, but once in the fields
	{"keys", []request{
		{target: "/keys", header: "X-API-Key: ann"},
		{target: "/keys", header: "X-API-Key: bob"},
		{target: "/keys", header: "X-API-Key: bob"},                      // the address is full
		{target: "/keys", header: "X-API-Key: bob", from: "192.0.2.2:1"}, // the key is
		{target: "/keys", from: "192.0.2.2:1"},
	}},
	{"table", []request{
		{target: "/table/1"},
		{target: "/table/2"},
		{target: "/table/3"},
		{target: "/free"},
		{target: "/free", from: "@"}, // its address is not needed
	}},
	{"methods", []request{
		{target: "/one", method: "HEAD"},
		{target: "/one", method: "OPTIONS"},
		{target: "/one", method: "HEAD"}, // denied, without a body
		{target: "/one", method: "OPTIONS"},
		{target: "/one"},
	}},
	{"legacy", []request{{target: "/legacy"}, {target: "/legacy"}, {target: "/legacy"},
		{at: 1500 * ms, target: "/legacy"}}},
	{"secret", []request{{target: "/secret"}, {target: "/secret"}, {target: "/secret"}}},
	{"text", []request{
		{target: "/text"},
		{target: "/text", header: "X-API-Key: ann\nX-API-Key: bob"},
		{target: "/text", header: "X-API-Key: ann"},
		{target: "/text", header: "X-API-Key: ann"},
		{target: "/text", header: "X-API-Key: ann"},
	}},
	// the response that has begun does not change
	{"begun", []request{{target: "/begun"}, {target: "/begun"}, {target: "/begun"}}},
	{"cost", []request{
		{target: "/cost?cost=2"},
		{target: "/cost?cost=2"}, // denied and not charged
		{target: "/cost?cost=1"},
		{target: "/cost?cost=1"}, // denied
		{target: "/cost?cost=4"}, // more than Max: a mistake of the service
		{target: "/cost?cost=0"},
	}},
	{"failures", []request{
		{target: "/failures?status=200"},
		{target: "/failures?status=401"},
		{target: "/failures?status=204"},
		{target: "/failures?status=200"},
		{target: "/failures?status=500"},
		{target: "/failures?status=200"}, // denied, although it would succeed
		{at: 10000 * ms, target: "/failures?status=200"},
	}},
	{"settled", []request{
		{target: "/settled?cost=3&actual=1"},
		{target: "/settled?cost=2&actual=2"},
		{target: "/settled?cost=1&actual=0"}, // denied
		{at: 60000 * ms, target: "/settled?cost=1&actual=9"},
		{at: 61000 * ms, target: "/settled?cost=1&actual=0"}, // denied, because more than Max was charged
		{at: 119999 * ms, target: "/settled?cost=1&actual=0"},
		{at: 120000 * ms, target: "/settled?cost=3&actual=0"},
		{at: 120000 * ms, target: "/settled?cost=1&actual=-1"}, // a mistake of the service, so the reservation stays
		{at: 120000 * ms, target: "/settled?cost=1&actual=1"},
		{at: 120000 * ms, target: "/settled?cost=4&actual=1"}, // more than Max
	}},
	{"guard", []request{
		{target: "/guard?status=401"},
		{target: "/guard?status=200"}, // given back
		{target: "/guard?status=401"},
		{at: 1000 * ms, target: "/guard?status=200"},  // denied, although it would succeed, and banned for a minute
		{at: 11000 * ms, target: "/guard?status=200"}, // the log is empty, but the ban goes on
		{at: 60999 * ms, target: "/guard?status=200"}, // one millisecond too early
		{at: 60999 * ms, target: "/guard?status=200", from: "192.0.2.2:1234"},
		{at: 61000 * ms, target: "/guard?status=200"},
	}},
	{"tokens", []request{
		{target: "/tokens?cost=300"},
		{at: 1000 * ms, target: "/tokens?cost=300"}, // denied
		{at: 1000 * ms, target: "/tokens?cost=200"},
	}},
	{"mapped", []request{ // the status is written after the limiter has returned
		{target: "/mapped?status=401"},
		{target: "/mapped?status=401"},
		{target: "/mapped?status=401"}, // denied
	}},
	{"mapping", []request{ // the status is written before
		{target: "/mapping?status=200"},
		{target: "/mapping?status=401"},
		{target: "/mapping?status=204"},
		{target: "/mapping?status=403"},
		{target: "/mapping?status=200"}, // denied
	}},
	{"unknown", []request{
		{target: "/nowhere"},
		{target: "/nowhere", method: "BREW"},
		{target: "/elsewhere"}, // denied
		{target: "/free"},
		{target: "/one"},
	}},
	{"exempt", []request{
		{target: "/exempt", header: "X-API-Key: ann"},
		{target: "/exempt", header: "X-API-Key: ann\nX-Staff: yes"}, // neither counted nor with fields
		{target: "/exempt", header: "X-API-Key: ann"},
		{target: "/exempt", header: "X-API-Key: ann"}, // denied
		{target: "/exempt", header: "X-API-Key: ann\nX-Staff: yes"},
		{target: "/exempt", header: "X-Staff: yes"}, // its key is not needed
		{target: "/exempt/plan", header: "X-Staff: yes"},
		{target: "/exempt/plan", header: "X-API-Key: ann"},
		{target: "/exempt/table", header: "X-Staff: yes"},
		{target: "/exempt/table", header: "X-API-Key: bob"},
		{target: "/exempt/failures", header: "X-API-Key: eve\nX-Staff: yes"},
		{target: "/exempt/failures", header: "X-API-Key: eve"},
		{target: "/exempt/failures", header: "X-API-Key: eve\nX-Staff: yes"},
		{target: "/exempt/failures", header: "X-API-Key: eve"},
		{target: "/exempt/failures", header: "X-API-Key: eve"}, // denied
	}},
	{"dry", []request{
		{target: "/dry?cost=1", header: "X-API-Key: ann"},
		{target: "/dry?cost=1", header: "X-API-Key: ann"},
		{target: "/dry?cost=1", header: "X-API-Key: ann"}, // would be denied
		{target: "/dry?cost=1"},                           // would be 401
		{target: "/dry?cost=3", header: "X-API-Key: ann"}, // would be 500
	}},
	{"flight", []request{
		{target: "/flight"},
		{target: "/flight"},
		{target: "/flight"},                    // admitted, because the others have ended
		{target: "/flight", from: Busy + ":1"}, // denied: two are in flight
		{target: "/flight/several"},            // two limits
		{target: "/flight/several"},            // the last one of Inner
		{target: "/flight/several"},            // denied
		{target: "/flight/several", from: Busy + ":1"},
		{target: "/flight/mapped?status=401", from: "192.0.2.2:1"},
		{target: "/flight/mapped?status=401", from: "192.0.2.2:1"}, // Inner counts failures
		{target: "/flight/mapped?status=401", from: "192.0.2.2:1"}, // denied
		{target: "/flight", from: "192.0.2.2:1"},
		{target: "/flight/failures", from: "192.0.2.2:1"}, // denied
		{target: "/flight/failures", from: "192.0.2.3:1"},
		{target: "/flight/failures", from: "192.0.2.3:1"},
		{target: "/flight/failures", from: "192.0.2.3:1"},
		{target: "/flight/dry", from: Busy + ":1"}, // would be denied
		{target: "/plan", header: "X-Plan: flight"},
		{target: "/plan", header: "X-Plan: flight", from: Busy + ":1"}, // denied
	}},
	{"panic", []request{{target: "/panic"}, {target: "/panic"}, {target: "/panic"}}}, // charged nevertheless
	{"quoted", []request{{target: "/quoted"}, {at: 1 * ms, target: "/quoted"}}},
	{"header", []request{
		{target: "/header"},
		{target: "/header", header: "X-API-Key:"},
		{target: "/header", header: "X-API-Key: ann"},
		{target: "/header", header: "x-api-key: ann"},
		{target: "/header", header: "X-API-Key: ann\nX-API-Key: bob"}, // the handler may read either
		{target: "/header", header: "X-API-Key: bob\nX-API-Key: ann"},
		{target: "/header", header: "X-API-Key: ANN"},
	}},
	{"first", []request{
		{target: "/first", header: "X-API-Key: ann"},
		{target: "/first", header: "X-API-Key: ann"},
		{target: "/first", header: "X-API-Key: ann"}, // denied, and not counted by address instead
		{target: "/first"},
		{target: "/first", header: "X-API-Key: ip:192.0.2.1"}, // not the address
		{target: "/first"},
		{target: "/first"}, // denied
		{target: "/first", header: "X-API-Key: bob\nX-API-Key: bob", from: "192.0.2.2:1"}, // not counted by address
		{target: "/first", header: "X-API-Key: b\tob", from: "192.0.2.2:1"},
		{target: "/first", header: "X-API-Key:", from: "192.0.2.2:1"}, // missing
	}},
	{"bearer", []request{
		{target: "/bearer"},
		{target: "/bearer", header: "Authorization: Basic YTpi"},
		{target: "/bearer", header: "Authorization: Bearer ann"},
		{target: "/bearer", header: "authorization: bearer   ann"},
		{target: "/bearer", header: "Authorization: BEARER ann"},
		{target: "/bearer", header: "Authorization: Bearer bob"},
		{target: "/bearer", header: "Authorization: Bearer ann bob"},
		{target: "/bearer", header: "Authorization: Bearer ann\nAuthorization: Bearer bob"},
		{target: "/bearer", header: "Authorization: Bearer\tann"},
	}},
	{"cookie", []request{
		{target: "/cookie"},
		{target: "/cookie", header: "Cookie: other=ann"},
		{target: "/cookie", header: "Cookie: session=ann"},
		{target: "/cookie", header: "Cookie: other=x; session=ann"},
		{target: "/cookie", header: "Cookie: session=ann; session=bob"}, // the first, as the handler reads it
		{target: "/cookie", header: "Cookie: session=bob\nCookie: session=ann"},
		{target: "/cookie", header: "Cookie: session=%61nn"}, // ann, as Gin's handlers read it
		{target: "/cookie", header: "Cookie: session=ann%0A"},
	}},
	{"query", []request{
		{target: "/query"},
		{target: "/query?api_key="},
		{target: "/query?api_key=ann"},
		{target: "/query?x=1&api%5Fkey=%61nn"},
		{target: "/query?api_key=ann&api_key=bob"}, // the first, as the handler reads it
		{target: "/query?api_key=bob"},
		{target: "/query?api_key=bob%0A"}, // a base64 decoder would read bob
		{target: "/query?api_key=" + strings.Repeat("k", 8193)},
	}},
	{"path", []request{
		{target: "/path/ann"},
		{target: "/path/%61nn"},
		{target: "/path/a%6En?x=1"},
		{target: "/path/%2561nn"}, // "%61nn" is another client
		{target: "/path/bob%0D%0A"},
		{target: "/path/ANN"},
		{target: "/path"},
	}},
	{"route", []request{{target: "/route/1"}, {target: "/route/2"}, {target: "/route/3"}}},
	{"join", []request{
		{target: "/join/1"},
		{target: "/join/1"},
		{target: "/join/1"},
		{target: "/join/2"},
		{target: "/join/1", from: "192.0.2.2:1234"},
		{target: "/join/1", from: "@"},
	}},
	{"global", []request{{target: "/global"}, {target: "/global", from: "192.0.2.2:1234"},
		{target: "/global", from: "@"}}},
	{"own", []request{
		{target: "/own?user=ann"},
		{target: "/own?user=ann"},
		{target: "/own?user=ann"},
		{target: "/own"},             // an empty key is refused
		{target: "/own?user=broken"}, // the client does not see the error
	}},
	{"plan", []request{
		{target: "/plan", header: "X-Plan: free"},
		{target: "/plan", header: "X-Plan: free"},
		{target: "/plan", header: "X-Plan: pro"}, // the same log with a larger Max
		{target: "/plan", header: "X-Plan: pro"},
		{target: "/plan"}, // no limits: refused
		{target: "/plan", header: "X-Plan: invalid"},
		{target: "/plan", header: "X-Plan: broken"},
	}},
	{"denied", []request{{target: "/denied"}, {target: "/denied"}, {at: 5 * ms, target: "/denied"}}},
	// a denial is a 429, even if OnDenied writes nothing
	{"silent", []request{{target: "/silent"}, {target: "/silent"}, {target: "/silent"}}},
	{"answered", []request{{target: "/answered"}}}, // one response, not two
	{"addresses", []request{
		{target: "/one", from: "192.0.2.9:1"},
		{target: "/one", from: "[::ffff:192.0.2.9]:2"},
		{target: "/one", from: "192.0.2.9:3",
			header: "X-Forwarded-For: 192.0.2.10\nX-Real-IP: 192.0.2.10\nForwarded: for=192.0.2.10"},
		{target: "/one", from: "[2001:db8:1:2::3]:1"},
		{target: "/one", from: "[2001:db8:1:2:ffff:ffff:ffff:ffff%eth0]:2"},
		{target: "/one", from: "[2001:db8:1:2::4]:3"}, // the same /64
		{target: "/one", from: "[2001:db8:1:3::4]:3"}, // another
		{target: "/one", from: "@"},
	}},
	{"proxied", []request{
		{target: "/proxied", from: "10.0.0.1:80", header: "X-Forwarded-For: 192.0.2.9"},
		{target: "/proxied", from: "10.0.0.2:80", header: "X-Forwarded-For: 192.0.2.10, 192.0.2.9, 10.0.0.1"},
		// the same client without the proxies
		{target: "/proxied", from: "192.0.2.9:1", header: "X-Forwarded-For: 192.0.2.10"},
		{target: "/proxied", from: "10.0.0.1:80", header: "X-Forwarded-For: 192.0.2.10"},
		{target: "/proxied", from: "10.0.0.1:80"},
		{target: "/proxied", from: "@"},
	}},
	// refused, because clients can choose their addresses
	{"framework", []request{{target: "/framework"}, {target: "/framework", header: "X-Forwarded-For: 192.0.2.10"}}},
}

// unavailable is the timeline of a limiter that makes no decisions.
var unavailable = []request{
	{target: "/one"},
	{target: "/several"},
	{target: "/denied"},
	{target: "/header"},
	{target: "/text", header: "X-API-Key: ann"},
	{target: "/secret"}, // names no limits
}
