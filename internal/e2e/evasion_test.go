package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// target is a limited route, and what an honest client of it sends. In its strings, $k is the number of the row.
type target struct {
	max          int
	line         string // the request line
	honest       string // the headers of an honest client, or a request line; $C is the identity of the client
	attackerFrom string // the address from which the attacker connects
	victimFrom   string // the address from which the victim connects
	keys         bool   // a route of adapters.Adapter.Keys instead of the examples
}

var (
	// direct counts by the address of the peer.
	direct = target{max: 5, line: "POST /api/login", attackerFrom: "127.1.$k.1", victimFrom: "127.2.$k.1"}
	// proxied counts by the address that a trusted proxy has added.
	proxied = target{max: 5, line: "POST /api/login", honest: "X-Forwarded-For: $C",
		attackerFrom: "127.0.0.1", victimFrom: "127.0.0.1"}
	// apiKey counts by an API key.
	apiKey = target{max: 3, line: "GET /api/report", honest: "X-API-Key: $C",
		attackerFrom: "127.3.$k.1", victimFrom: "127.4.$k.1"}
	// token counts by a bearer token.
	token = target{keys: true, max: 3, line: "GET /bearer", honest: "Authorization: Bearer $C",
		attackerFrom: "127.5.$k.1", victimFrom: "127.6.$k.1"}
	// vote counts by a parameter of the path together with the address of the peer.
	vote = target{keys: true, max: 3, line: "GET /items/item$k/votes",
		attackerFrom: "127.7.$k.1", victimFrom: "127.8.$k.1"}
	// translated counts by the address that a trusted proxy has added, which sees IPv4 clients through a translator
	// with the prefix of RFC 8215.
	translated = target{max: 5, line: "POST /api/login", honest: "X-Forwarded-For: 64:ff9b:1::$C",
		attackerFrom: "127.0.0.1", victimFrom: "127.0.0.1"}
	// either counts by an API key, or else by a bearer token, or else by the address of the peer.
	either = target{keys: true, max: 3, line: "GET /either", honest: "X-API-Key: $C",
		attackerFrom: "127.9.$k.1", victimFrom: "127.10.$k.1"}
	// query counts by an API key in the query.
	query = target{keys: true, max: 3, honest: "GET /query?api_key=$C",
		attackerFrom: "127.11.$k.1", victimFrom: "127.12.$k.1"}
	// cookie counts by the cookie of a session.
	cookie = target{keys: true, max: 3, line: "GET /cookie", honest: "Cookie: session=$C",
		attackerFrom: "127.13.$k.1", victimFrom: "127.14.$k.1"}
	// param counts by a parameter of the path.
	param = target{keys: true, max: 3, honest: "GET /path/$C", attackerFrom: "127.15.$k.1", victimFrom: "127.16.$k.1"}
)

// evasions are the requests of attackers. An attacker sends the requests of a row in turn, three times as many as the
// limit admits. A request is lines of headers, after a request line if that is not the target's. $A is the identity of
// the attacker and $V that of the victim: an address or a secret. $6 is the 6to4 prefix of $A. $i is the number of the
// request, and $k that of the row.
var evasions = []struct {
	name     string
	target   target
	http1    bool // the requests can only be sent over HTTP/1.1
	requests []string
}{
	{"no evasion", direct, false, []string{""}},
	{"many at once", direct, false, []string{"X-At-Once: yes"}},
	{"another address in X-Forwarded-For", direct, false, []string{"X-Forwarded-For: 203.0.113.$i"}},
	{"the victim's address in X-Forwarded-For", direct, false, []string{"X-Forwarded-For: $V"}},
	{"X-Forwarded-For in lower case", direct, false,
		[]string{"x-forwarded-for: 203.0.113.$i", "X-FORWARDED-FOR: 203.0.113.$i"}},
	{"X-Forwarded-For with underscores", direct, false, []string{"X_Forwarded_For: 203.0.113.$i"}},
	{"a list in X-Forwarded-For", direct, false, []string{"X-Forwarded-For: 203.0.113.$i, 203.0.114.$i, 127.0.0.1"}},
	{"two fields X-Forwarded-For", direct, false,
		[]string{"X-Forwarded-For: 203.0.113.$i\nX-Forwarded-For: 127.0.0.1"}},
	{"the proxy's address in X-Forwarded-For", direct, false,
		[]string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: $V, 127.0.0.1"}},
	{"an empty X-Forwarded-For", direct, false,
		[]string{"X-Forwarded-For:", "X-Forwarded-For: ,", "X-Forwarded-For: , ,"}},
	{"a huge X-Forwarded-For", direct, false,
		[]string{"X-Forwarded-For: " + strings.Repeat("203.0.113.9, ", 4000) + "203.0.113.$i"}},
	{"nonsense in X-Forwarded-For", direct, false, []string{"X-Forwarded-For: unknown$i", "X-Forwarded-For: '$i'",
		"X-Forwarded-For: \"$i", "X-Forwarded-For: <nil>"}},
	{"X-Forwarded-For on two lines", direct, true, []string{"X-Forwarded-For: 203.0.113.$i,\n 203.0.114.$i"}},
	{"Forwarded", direct, false, []string{"Forwarded: for=203.0.113.$i", "Forwarded: for=$V;by=127.0.0.1",
		"Forwarded: for=\"[2001:db8:$i::1]\""}},
	{"X-Real-IP", direct, false, []string{"X-Real-IP: 203.0.113.$i", "X-Real-IP: $V"}},
	{"CF-Connecting-IP", direct, false, []string{"CF-Connecting-IP: 203.0.113.$i", "CF-Connecting-IP: $V"}},
	{"True-Client-IP", direct, false, []string{"True-Client-IP: 203.0.113.$i", "True-Client-IP: $V"}},
	{"headers of other platforms", direct, false,
		[]string{"X-Client-IP: $V", "X-Cluster-Client-IP: $V", "Fly-Client-IP: $V",
			"X-Appengine-Remote-Addr: $V", "Fastly-Client-IP: $V"}},
	{"other headers with addresses", direct, false, []string{"Client-IP: $V", "X-Originating-IP: $V", "X-Remote-IP: $V",
		"X-Remote-Addr: $V", "X-ProxyUser-Ip: $V", "Via: 1.1 $V"}},
	{"all headers with addresses", direct, false,
		[]string{"X-Forwarded-For: $V\nForwarded: for=$V\nX-Real-IP: $V\nCF-Connecting-IP: $V\nTrue-Client-IP: $V"}},
	{"another host", direct, false, []string{"Host: $i.example.com", "X-Forwarded-Host: $i.example.com"}},
	{"another agent", direct, false, []string{"User-Agent: $i", "Referer: http://$i.example.com",
		"Accept-Language: x-$i", "Cookie: session=$i"}},
	{"another method in a header", direct, false,
		[]string{"X-HTTP-Method-Override: PUT", "X-Method-Override: GET", "X-HTTP-Method: HEAD"}},
	{"another URL in a header", direct, false,
		[]string{"X-Original-URL: /api/$i", "X-Rewrite-URL: /healthz", "X-Forwarded-Prefix: /$i",
			"X-Forwarded-Path: /$i"}},
	{"another method", direct, false, []string{"GET /api/login", "HEAD /api/login", "PUT /api/login",
		"BREW /api/login", "OPTIONS /api/login", ""}},
	{"the method in lower case", direct, true, []string{"post /api/login", "Post /api/login", ""}},
	{"another query", direct, false, []string{"POST /api/login?i=$i", "POST /api/login?",
		"POST /api/login?ip=$V&X-Forwarded-For=$V"}},
	{"more slashes in the path", direct, false, []string{"POST //api/login", "POST /api//login", "POST ///api///login",
		"POST /api/login/", "POST /api/login//"}},
	{"dots in the path", direct, false, []string{"POST /api/./login", "POST /./api/login", "POST /api/x/../login",
		"POST /../api/login", "POST /api/login/."}},
	{"an encoded path", direct, false, []string{"POST /api/%6Cogin", "POST /api/%6cogin",
		"POST /%61pi/login", "POST /api/log%69n",
		"POST /%61%70%69/%6C%6F%67%69%6E"}},
	{"encoded slashes", direct, false, []string{"POST /api%2Flogin", "POST %2Fapi/login",
		"POST /api/login%2F", "POST /api%2f%2flogin"}},
	{"a path encoded twice", direct, false, []string{"POST /api/%256Cogin",
		"POST /api%252Flogin", "POST /api/login%2500"}},
	{"a path in upper case", direct, false, []string{"POST /API/LOGIN", "POST /Api/Login", "POST /api/Login"}},
	{"a suffix of the path", direct, false, []string{"POST /api/login;i=$i", "POST /api/login%00", "POST /api/login%20",
		"POST /api/login.json", "POST /api/login%3Fi=$i", "POST /api/login%23$i"}},
	{"a fragment", direct, true, []string{"POST /api/login#$i", ""}},
	{"backslashes", direct, true, []string{`POST \api\login`, `POST /api\login`, ""}},
	{"broken encodings", direct, true, []string{"POST /api/login%", "POST /api/%zzlogin", "POST /api/%ff%fe", ""}},
	{"absolute form", direct, true, []string{"POST http://example.com/api/login"}},
	{"absolute form, other hosts", direct, true,
		[]string{"POST http://$i.example.com/api/login", "POST https://$V/api/login", "POST http://$V:$i/api/login"}},
	{"absolute form, odd paths", direct, true,
		[]string{"POST http://example.com//api/login", "POST http://example.com/api/%6Cogin",
			"POST HTTP://EXAMPLE.COM/api/login"}},
	{"asterisk form", direct, true, []string{"OPTIONS *", "POST *", ""}},
	{"HTTP/1.0", direct, true, []string{"POST /api/login HTTP/1.0", "POST /api/login HTTP/1.1"}},
	{"two hosts", direct, true, []string{"Host: $i.example.com\nHost: $V", ""}},
	{"a space before the colon", direct, true, []string{"X-Forwarded-For : $V", ""}},
	{"two lengths", direct, true, []string{"Content-Length: 0\nContent-Length: 5",
		"Content-Length: 0\nTransfer-Encoding: chunked", ""}},

	{"no evasion behind the proxy", proxied, false, []string{"X-Forwarded-For: $A"}},
	{"another address to the left", proxied, false, []string{"X-Forwarded-For: 203.0.113.$i, $A"}},
	{"the victim's address to the left", proxied, false, []string{"X-Forwarded-For: $V, $A"}},
	{"the victim's address in another field", proxied, false,
		[]string{"X-Forwarded-For: $V\nX-Forwarded-For: $A", "x-forwarded-for: $V\nX-FORWARDED-FOR: $A"}},
	{"the proxy's address to the left", proxied, false,
		[]string{"X-Forwarded-For: 127.0.0.1, $A", "X-Forwarded-For: $V, 127.0.0.1, $A",
			"X-Forwarded-For: 127.0.0.1, 127.0.0.1, $A"}},
	{"nonsense to the left", proxied, false, []string{"X-Forwarded-For: unknown, $A", "X-Forwarded-For: \", $A",
		"X-Forwarded-For: [, $A", "X-Forwarded-For: $i, $A", "X-Forwarded-For: \\, $A"}},
	{"empty elements to the left", proxied, false, []string{"X-Forwarded-For: , $A", "X-Forwarded-For: , , $A",
		"X-Forwarded-For:\nX-Forwarded-For: $A"}},
	{"a long list to the left", proxied, false,
		[]string{"X-Forwarded-For: " + strings.Repeat("203.0.113.9, ", 4000) + "203.0.113.$i, $A"}},
	{"other headers too", proxied, false, []string{"X-Forwarded-For: $A\nForwarded: for=$V",
		"X-Forwarded-For: $A\nX-Real-IP: $V", "X-Forwarded-For: $A\nCF-Connecting-IP: 203.0.113.$i"}},
	{"over two proxies", proxied, false, []string{
		"X-Forwarded-For: $A, 127.0.0.1", "X-Forwarded-For: $V, $A, 127.0.0.1",
		"X-Forwarded-For: $A\nX-Forwarded-For: 127.0.0.1"}},
	{"other ports", proxied, false, []string{"X-Forwarded-For: $A:$i", "X-Forwarded-For: $A:1$i"}},
	{"mapped into IPv6", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: ::ffff:$A",
		"X-Forwarded-For: [::ffff:$A]:$i", "X-Forwarded-For: 0:0:0:0:0:FFFF:$A", "X-Forwarded-For: ::ffff:$A%$i"}},
	{"through NAT64", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: 64:ff9b::$A",
		"X-Forwarded-For: [64:FF9B:0::$A]:$i", "X-Forwarded-For: 64:ff9b::$A%$i"}},
	{"through 6to4", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: $6:$i::1",
		"X-Forwarded-For: [$6:$i:$i::]:80", "X-Forwarded-For: $V, $6::$i"}},
	{"through 6to4, as the proxy", proxied, false,
		[]string{"X-Forwarded-For: $V, 2002:7f00:1::$i", "X-Forwarded-For: 2002:7f00:1:$i::1"}},
	{"through a translator", translated, false,
		[]string{"X-Forwarded-For: 64:ff9b:1::$A", "X-Forwarded-For: [64:FF9B:1::$A]:$i"}},
	{"spaces around addresses", proxied, false, []string{"X-Forwarded-For: $V,$A",
		"X-Forwarded-For: $V,  \t $A", "X-Forwarded-For: \t$A \t"}},
	{"a /64 of addresses", proxied, false, []string{"X-Forwarded-For: 2001:db8:$k::$i",
		"X-Forwarded-For: 2001:db8:$k:0:$i:$i:$i:$i", "X-Forwarded-For: 2001:db8:$k::203.0.113.$i"}},
	{"one address in many forms", proxied, false,
		[]string{"X-Forwarded-For: 2001:db8:$k::a", "X-Forwarded-For: 2001:DB8:$k::A",
			"X-Forwarded-For: 2001:0db8:$k:0000:0000:0000:0000:000a", "X-Forwarded-For: [2001:db8:$k::a]:$i",
			"X-Forwarded-For: [2001:db8:$k::a]"}},
	{"zones of addresses", proxied, false, []string{"X-Forwarded-For: 2001:db8:$k::1%$i",
		"X-Forwarded-For: 2001:db8:$k::1%25eth$i",
		"X-Forwarded-For: [2001:db8:$k::1%eth$i]:80"}},

	{"one key in many spellings of the header", apiKey, false,
		[]string{"X-API-Key: $A", "x-api-key: $A", "X-Api-Key: $A", "X-API-KEY: $A"}},
	{"spaces around the key", apiKey, false, []string{"X-API-Key:$A", "X-API-Key:    $A",
		"X-API-Key: $A   ", "X-API-Key:\t$A\t"}},
	{"the victim's key beside the attacker's", apiKey, false,
		[]string{"X-API-Key: $V\nX-API-Key: $A", "X-API-Key: $A\nX-API-Key: $V", "x-api-key: $V\nX-API-KEY: $A"}},
	{"keys in a list", apiKey, false, []string{"X-API-Key: $V, $A"}},
	{"a key that is too long", apiKey, false, []string{"X-API-Key: $V" + strings.Repeat("k", 20_000) + "$i"}},
	{"no key", apiKey, false, []string{"", "X-API-Key:", "X_API_Key: $A", "GET /api/report?X-API-Key=$A",
		"Cookie: X-API-Key=$A", "Authorization: $A"}},
	{"a key that imitates an address", apiKey, false, []string{"X-API-Key: ip:127.4.$k.1"}},
	{"a key that imitates a log", apiKey, false, []string{"X-API-Key: $V}:report:60000"}},
	{"a key that imitates a hash", apiKey, false, []string{"X-API-Key: header:x-api-key:$V"}},
	{"a key that imitates an escape", apiKey, false, []string{"X-API-Key: %24V$k"}},
	{"another address for one key", apiKey, false,
		[]string{"X-API-Key: $A\nX-Forwarded-For: 203.0.113.$i", "X-API-Key: $A\nForwarded: for=$i"}},

	{"a key twice, to be counted by address", either, false,
		[]string{"X-API-Key: $A", "X-API-Key: $A\nX-API-Key: $A", "X-API-Key: $A\nX-API-Key:"}},
	{"a key that is too long, to be counted by address", either, false,
		[]string{"X-API-Key: $A", "X-API-Key: $A" + strings.Repeat("k", 20_000)}},
	{"a key with a tab, to be counted by address", either, false, []string{"X-API-Key: $A", "X-API-Key: $A\t$A"}},
	{"two tokens, to be counted by address", either, false,
		[]string{"Authorization: Bearer $A", "Authorization: Bearer $A, Bearer $A", "Authorization: Bearer $A $A"}},
	{"a token behind a tab, to be counted by address", either, false,
		[]string{"Authorization: Bearer $A", "Authorization: Bearer\t$A", "Authorization: Bearer \t$A"}},
	{"a token behind a space, to be counted by address", either, false,
		[]string{"Authorization: Bearer $A", "Authorization:  Bearer $A", "Authorization: \tBearer $A"}},
	{"line breaks in a key of the query", query, false,
		[]string{"GET /query?api_key=$A", "GET /query?api_key=$A%0A",
			"GET /query?api_key=$A%0D%0A", "GET /query?api_key=%0A$A"}},
	{"other control characters in a key of the query", query, false,
		[]string{"GET /query?api_key=$A", "GET /query?api_key=$A%00",
			"GET /query?api_key=$A%09", "GET /query?api_key=$A%7F"}},
	{"control characters in a cookie", cookie, false,
		[]string{"Cookie: session=$A", "Cookie: session=$A%0A", "Cookie: session=%0D$A", "Cookie: session=$A%00"}},
	{"Unicode's spaces around a key", apiKey, false,
		[]string{"X-API-Key: $A", "X-API-Key: $A\u00a0", "X-API-Key: \u2003$A", "X-API-Key: $A\u3000\u3000"}},
	{"spaces around a key of the query", query, false,
		[]string{"GET /query?api_key=$A", "GET /query?api_key=$A%20", "GET /query?api_key=++$A",
			"GET /query?api_key=%C2%A0$A"}},
	{"spaces around a cookie", cookie, false,
		[]string{"Cookie: session=$A", "Cookie: session=$A%20", "Cookie: session=%E3%80%80$A", "Cookie: session=+$A"}},
	{"spaces around a parameter of the path", param, false,
		[]string{"GET /path/$A", "GET /path/$A%20", "GET /path/%C2%A0$A", "GET /path/%20%20$A"}},
	{"Unicode's spaces around a token", token, false,
		[]string{"Authorization: Bearer $A", "Authorization: Bearer $A\u00a0", "Authorization: Bearer \u2003$A"}},
	{"a token behind one of Unicode's spaces, to be counted by address", either, false,
		[]string{"Authorization: Bearer $A", "Authorization: Bearer\u00a0$A", "Authorization: Bearer\u3000 $A"}},
	{"one cookie in many spellings", cookie, false,
		[]string{"Cookie: session=$A", "Cookie: session=%41$k", "Cookie: session=\"$A\"", "Cookie: x=$i; session=$A"}},
	{"control characters in the path", param, false,
		[]string{"GET /path/$A", "GET /path/$A%0A", "GET /path/%41$k%0D%0A", "GET /path/%00$A"}},

	{"one token in many spellings of the scheme", token, false,
		[]string{"Authorization: Bearer $A", "Authorization: bearer $A",
			"authorization: BEARER $A", "Authorization: bEARER $A"}},
	{"spaces before the token", token, false,
		[]string{"Authorization: Bearer $A", "Authorization: Bearer   $A", "Authorization: Bearer \t$A"}},
	{"two tokens", token, false, []string{"Authorization: Bearer $V $A", "Authorization: Bearer $A $V",
		"Authorization: Bearer $V, Bearer $A", "Authorization: Bearer $V,$A"}},
	{"two fields with tokens", token, false, []string{"Authorization: Bearer $V\nAuthorization: Bearer $A",
		"Authorization: Bearer $A\nAuthorization: Bearer $V"}},
	{"another scheme", token, false, []string{"Authorization: Basic $V", "Authorization: Token $V",
		"Authorization: Bearer", "Authorization: $V", "Authorization: Bearer\t$V"}},
	{"the token elsewhere", token, false, []string{"GET /bearer?access_token=$V", "Cookie: access_token=$V",
		"X-Authorization: Bearer $V", "Proxy-Authorization: Bearer $V"}},

	{"one item, encoded", vote, false, []string{"", "GET /items/it%65m$k/votes",
		"GET /items/%69%74%65%6D$k/votes", "GET /items/%69%74%65%6d$k/votes?$i"}},
	{"one item, with slashes", vote, false, []string{"GET /items//item$k/votes", "GET /items/item$k//votes",
		"GET /items/item$k/votes/", "GET //items/item$k/votes"}},
	{"one item, with dots", vote, false, []string{"GET /items/./item$k/votes", "GET /items/x/../item$k/votes",
		"GET /items/item$k/./votes"}},
	{"one item, other addresses", vote, false,
		[]string{"X-Forwarded-For: 203.0.113.$i", "Forwarded: for=$V", "X-Real-IP: $V"}},
	{"an item that imitates the victim's vote", vote, false,
		[]string{"GET /items/item$k:14:ip:127.8.$k.1/votes", "GET /items/item$k%3A14%3Aip%3A127.8.$k.1/votes"}},
	{"no item in the path", vote, false, []string{"GET /items//votes",
		"GET /items/votes", "GET /items/%00/votes"}},
}

// No evasion admits more than Max requests of the attacker, or uses the budget of the victim.
func TestEvasions(t *testing.T) {
	redistest.Long(t)
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127.0.0.0/8 on loopback, as on Linux")
	}
	require.GreaterOrEqual(t, len(evasions), 60)
	for i, binary := range buildExamples(t) {
		for _, http1 := range []bool{true, false} {
			protocol := map[bool]string{true: "HTTP1", false: "h2c"}[http1]
			t.Run(adapters.All[i].Dir+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				example, keys := runExample(t, binary, "-proxies", "127.0.0.1").addr, serveKeys(t, adapters.All[i])
				for k, row := range evasions {
					if row.http1 && !http1 {
						continue
					}
					t.Run(row.name, func(t *testing.T) {
						clients := &attackers{t: t, addr: example, http1: http1, h2c: map[string]*http.Transport{}}
						if row.target.keys {
							clients.addr = keys
						}
						defer clients.close()
						attacker, victim := row.target.identity("A", k), row.target.identity("V", k)
						replacer := strings.NewReplacer("$A", attacker, "$V", victim, "$6", sixToFour(attacker),
							"$k", fmt.Sprint(k+1))
						line := replacer.Replace(row.target.line)
						from := replacer.Replace(row.target.attackerFrom)
						var admitted atomic.Int64
						attack := func(i int) {
							request := replacer.Replace(row.requests[i%len(row.requests)])
							request = strings.ReplaceAll(request, "$i", fmt.Sprint(i+1))
							if clients.send(from, line, request) == http.StatusOK {
								admitted.Add(1)
							}
						}
						var all sync.WaitGroup
						for i := range 3 * row.target.max {
							if strings.Contains(row.requests[0], "X-At-Once") {
								all.Go(func() { attack(i) })
							} else {
								attack(i)
							}
						}
						all.Wait()
						assert.LessOrEqual(t, int(admitted.Load()), row.target.max)
						for i := range row.target.max {
							honest := strings.ReplaceAll(row.target.honest, "$C", victim)
							status := clients.send(replacer.Replace(row.target.victimFrom), line, honest)
							assert.Equal(t, http.StatusOK, status, "request %d of the victim", i+1)
						}
					})
				}
			})
		}
	}
}

// serveKeys serves adapter.Keys until the test ends, and returns the address.
func serveKeys(t *testing.T, adapter adapters.Adapter) string {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return serve(t, adapter.Keys(limiter, core.PerMinute("keys", 3), nil, io.Discard))
}

// serve serves a handler over HTTP/1.1 and h2c until the test ends, and returns the address.
func serve(t *testing.T, handler http.Handler) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

// identity returns what the limit counts the attacker ("A") or the victim ("V") of row k by. No other client has it.
func (t target) identity(role string, k int) string {
	switch {
	case strings.HasPrefix(t.honest, "X-Forwarded-For"):
		return fmt.Sprintf("198.%d.%d.1", map[string]int{"A": 18, "V": 19}[role], k+1)
	case t.honest == "":
		from := map[string]string{"A": t.attackerFrom, "V": t.victimFrom}[role]
		return strings.ReplaceAll(from, "$k", fmt.Sprint(k+1))
	}
	return fmt.Sprintf("%s%d", role, k+1)
}

// sixToFour returns the 6to4 prefix (RFC 3056) of an IPv4 address, or "" for any other string.
func sixToFour(addr string) string {
	four := net.ParseIP(addr).To4()
	if four == nil {
		return ""
	}
	return fmt.Sprintf("2002:%x:%x", []byte(four[:2]), []byte(four[2:]))
}
