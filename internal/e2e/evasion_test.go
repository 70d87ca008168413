package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// prey is a limited route of the examples, and what a client of it sends who plays by the rules. $A is the attacker and $V
// the victim: an address, or a secret.
type prey struct {
	max      int
	line     string // of the request
	honest   string // its headers; $W is who sends it
	from     string // where the attacker's connections come from
	fromElse string // where the victim's do
	keys     bool   // a route of keyRoutes, not of the examples
}

var (
	// The peer's address counts: nobody stands between.
	direct = prey{max: 5, line: "POST /api/login", from: "127.1.$k.1", fromElse: "127.2.$k.1"}
	// The proxy, which the examples trust, has added whom it saw.
	proxied = prey{max: 5, line: "POST /api/login", honest: "X-Forwarded-For: $W", from: "127.0.0.1", fromElse: "127.0.0.1"}
	// An API key counts.
	apiKey = prey{max: 3, line: "GET /api/report", honest: "X-API-Key: $W", from: "127.3.$k.1", fromElse: "127.4.$k.1"}
	// A bearer token does.
	token = prey{max: 5, line: "GET /api/me", honest: "Authorization: Bearer $W", from: "127.5.$k.1", fromElse: "127.6.$k.1"}
	// A parameter of the path together with the peer's address.
	vote = prey{max: 2, line: "POST /api/items/item$k/votes", from: "127.7.$k.1", fromElse: "127.8.$k.1"}
	// The proxy sees IPv4 clients through a translator that uses RFC 8215's prefix.
	translated = prey{max: 5, line: "POST /api/login", honest: "X-Forwarded-For: 64:ff9b:1::$W", from: "127.0.0.1", fromElse: "127.0.0.1"}
	// An API key counts, or else a bearer token, or else the address.
	either = prey{keys: true, max: 3, line: "GET /either", honest: "X-API-Key: $W", from: "127.9.$k.1", fromElse: "127.10.$k.1"}
	// An API key in the query does.
	query = prey{keys: true, max: 3, honest: "GET /query?api_key=$W", from: "127.11.$k.1", fromElse: "127.12.$k.1"}
	// A session's cookie does.
	cookie = prey{keys: true, max: 3, line: "GET /cookie", honest: "Cookie: session=$W", from: "127.13.$k.1", fromElse: "127.14.$k.1"}
	// A parameter of the path does.
	param = prey{keys: true, max: 3, honest: "GET /path/$W", from: "127.15.$k.1", fromElse: "127.16.$k.1"}
)

// evasions are what attackers try, in turn, until they have tried three times as often as is allowed. A try is the headers,
// one a line, with a request line before them where it is another than the prey's. $i is the number of the try, $k that of
// the row. What only HTTP/1.1 can say is marked.
var evasions = []struct {
	name  string
	prey  prey
	http1 bool
	tries []string
}{
	{"nothing", direct, false, []string{""}},
	{"many at once", direct, false, []string{"X-At-Once: yes"}},
	{"another address in X-Forwarded-For", direct, false, []string{"X-Forwarded-For: 203.0.113.$i"}},
	{"the victim's", direct, false, []string{"X-Forwarded-For: $V"}},
	{"in small letters", direct, false, []string{"x-forwarded-for: 203.0.113.$i", "X-FORWARDED-FOR: 203.0.113.$i"}},
	{"with underscores", direct, false, []string{"X_Forwarded_For: 203.0.113.$i"}},
	{"in a list", direct, false, []string{"X-Forwarded-For: 203.0.113.$i, 203.0.114.$i, 127.0.0.1"}},
	{"in two fields", direct, false, []string{"X-Forwarded-For: 203.0.113.$i\nX-Forwarded-For: 127.0.0.1"}},
	{"claiming to be the proxy", direct, false, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: $V, 127.0.0.1"}},
	{"empty", direct, false, []string{"X-Forwarded-For:", "X-Forwarded-For: ,", "X-Forwarded-For: , ,"}},
	{"huge", direct, false, []string{"X-Forwarded-For: " + strings.Repeat("203.0.113.9, ", 4000) + "203.0.113.$i"}},
	{"nonsense", direct, false, []string{"X-Forwarded-For: unknown$i", "X-Forwarded-For: '$i'", "X-Forwarded-For: \"$i", "X-Forwarded-For: <nil>"}},
	{"over two lines", direct, true, []string{"X-Forwarded-For: 203.0.113.$i,\n 203.0.114.$i"}},
	{"Forwarded", direct, false, []string{"Forwarded: for=203.0.113.$i", "Forwarded: for=$V;by=127.0.0.1", "Forwarded: for=\"[2001:db8:$i::1]\""}},
	{"X-Real-IP", direct, false, []string{"X-Real-IP: 203.0.113.$i", "X-Real-IP: $V"}},
	{"CF-Connecting-IP", direct, false, []string{"CF-Connecting-IP: 203.0.113.$i", "CF-Connecting-IP: $V"}},
	{"True-Client-IP", direct, false, []string{"True-Client-IP: 203.0.113.$i", "True-Client-IP: $V"}},
	{"other platforms", direct, false, []string{"X-Client-IP: $V", "X-Cluster-Client-IP: $V", "Fly-Client-IP: $V", "X-Appengine-Remote-Addr: $V", "Fastly-Client-IP: $V"}},
	{"other inventions", direct, false, []string{"Client-IP: $V", "X-Originating-IP: $V", "X-Remote-IP: $V", "X-Remote-Addr: $V", "X-ProxyUser-Ip: $V", "Via: 1.1 $V"}},
	{"all of them", direct, false, []string{"X-Forwarded-For: $V\nForwarded: for=$V\nX-Real-IP: $V\nCF-Connecting-IP: $V\nTrue-Client-IP: $V"}},
	{"another host", direct, false, []string{"Host: $i.example.com", "X-Forwarded-Host: $i.example.com"}},
	{"another agent", direct, false, []string{"User-Agent: $i", "Referer: http://$i.example.com", "Accept-Language: x-$i", "Cookie: session=$i"}},
	{"another method in a header", direct, false, []string{"X-HTTP-Method-Override: PUT", "X-Method-Override: GET", "X-HTTP-Method: HEAD"}},
	{"another URL in a header", direct, false, []string{"X-Original-URL: /api/$i", "X-Rewrite-URL: /healthz", "X-Forwarded-Prefix: /$i", "X-Forwarded-Path: /$i"}},
	{"another method", direct, false, []string{"GET /api/login", "HEAD /api/login", "PUT /api/login", "BREW /api/login", "OPTIONS /api/login", ""}},
	{"the method in small letters", direct, true, []string{"post /api/login", "Post /api/login", ""}},
	{"another query", direct, false, []string{"POST /api/login?i=$i", "POST /api/login?", "POST /api/login?ip=$V&X-Forwarded-For=$V"}},
	{"more slashes", direct, false, []string{"POST //api/login", "POST /api//login", "POST ///api///login", "POST /api/login/", "POST /api/login//"}},
	{"dots", direct, false, []string{"POST /api/./login", "POST /./api/login", "POST /api/x/../login", "POST /../api/login", "POST /api/login/."}},
	{"encoded", direct, false, []string{"POST /api/%6Cogin", "POST /api/%6cogin", "POST /%61pi/login", "POST /api/log%69n", "POST /%61%70%69/%6C%6F%67%69%6E"}},
	{"encoded slashes", direct, false, []string{"POST /api%2Flogin", "POST %2Fapi/login", "POST /api/login%2F", "POST /api%2f%2flogin"}},
	{"encoded twice", direct, false, []string{"POST /api/%256Cogin", "POST /api%252Flogin", "POST /api/login%2500"}},
	{"capitals", direct, false, []string{"POST /API/LOGIN", "POST /Api/Login", "POST /api/Login"}},
	{"something behind", direct, false, []string{"POST /api/login;i=$i", "POST /api/login%00", "POST /api/login%20", "POST /api/login.json", "POST /api/login%3Fi=$i", "POST /api/login%23$i"}},
	{"a fragment", direct, true, []string{"POST /api/login#$i", ""}},
	{"backslashes", direct, true, []string{`POST \api\login`, `POST /api\login`, ""}},
	{"broken encodings", direct, true, []string{"POST /api/login%", "POST /api/%zzlogin", "POST /api/%ff%fe", ""}},
	{"absolute form", direct, true, []string{"POST http://example.com/api/login"}},
	{"absolute form, other hosts", direct, true, []string{"POST http://$i.example.com/api/login", "POST https://$V/api/login", "POST http://$V:$i/api/login"}},
	{"absolute form, odd paths", direct, true, []string{"POST http://example.com//api/login", "POST http://example.com/api/%6Cogin", "POST HTTP://EXAMPLE.COM/api/login"}},
	{"asterisk form", direct, true, []string{"OPTIONS *", "POST *", ""}},
	{"HTTP/1.0", direct, true, []string{"POST /api/login HTTP/1.0", "POST /api/login HTTP/1.1"}},
	{"two hosts", direct, true, []string{"Host: $i.example.com\nHost: $V", ""}},
	{"a space before the colon", direct, true, []string{"X-Forwarded-For : $V", ""}},
	{"two lengths", direct, true, []string{"Content-Length: 0\nContent-Length: 5", "Content-Length: 0\nTransfer-Encoding: chunked", ""}},

	{"behind the proxy, nothing", proxied, false, []string{"X-Forwarded-For: $A"}},
	{"another address to the left", proxied, false, []string{"X-Forwarded-For: 203.0.113.$i, $A"}},
	{"the victim's to the left", proxied, false, []string{"X-Forwarded-For: $V, $A"}},
	{"the victim's in a field of its own", proxied, false, []string{"X-Forwarded-For: $V\nX-Forwarded-For: $A", "x-forwarded-for: $V\nX-FORWARDED-FOR: $A"}},
	{"the proxy's to the left", proxied, false, []string{"X-Forwarded-For: 127.0.0.1, $A", "X-Forwarded-For: $V, 127.0.0.1, $A", "X-Forwarded-For: 127.0.0.1, 127.0.0.1, $A"}},
	{"nonsense to the left", proxied, false, []string{"X-Forwarded-For: unknown, $A", "X-Forwarded-For: \", $A", "X-Forwarded-For: [, $A", "X-Forwarded-For: $i, $A", "X-Forwarded-For: \\, $A"}},
	{"nothing to the left", proxied, false, []string{"X-Forwarded-For: , $A", "X-Forwarded-For: , , $A", "X-Forwarded-For:\nX-Forwarded-For: $A"}},
	{"a long list to the left", proxied, false, []string{"X-Forwarded-For: " + strings.Repeat("203.0.113.9, ", 4000) + "203.0.113.$i, $A"}},
	{"other headers too", proxied, false, []string{"X-Forwarded-For: $A\nForwarded: for=$V", "X-Forwarded-For: $A\nX-Real-IP: $V", "X-Forwarded-For: $A\nCF-Connecting-IP: 203.0.113.$i"}},
	{"over two proxies", proxied, false, []string{"X-Forwarded-For: $A, 127.0.0.1", "X-Forwarded-For: $V, $A, 127.0.0.1", "X-Forwarded-For: $A\nX-Forwarded-For: 127.0.0.1"}},
	{"other ports", proxied, false, []string{"X-Forwarded-For: $A:$i", "X-Forwarded-For: $A:1$i"}},
	{"mapped into IPv6", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: ::ffff:$A", "X-Forwarded-For: [::ffff:$A]:$i", "X-Forwarded-For: 0:0:0:0:0:FFFF:$A", "X-Forwarded-For: ::ffff:$A%$i"}},
	{"through NAT64", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: 64:ff9b::$A", "X-Forwarded-For: [64:FF9B:0::$A]:$i", "X-Forwarded-For: 64:ff9b::$A%$i"}},
	{"through 6to4", proxied, false, []string{"X-Forwarded-For: $A", "X-Forwarded-For: $6:$i::1", "X-Forwarded-For: [$6:$i:$i::]:80", "X-Forwarded-For: $V, $6::$i"}},
	{"through 6to4, as the proxy", proxied, false, []string{"X-Forwarded-For: $V, 2002:7f00:1::$i", "X-Forwarded-For: 2002:7f00:1:$i::1"}},
	{"through a translator, like others", translated, false, []string{"X-Forwarded-For: 64:ff9b:1::$A", "X-Forwarded-For: [64:FF9B:1::$A]:$i"}},
	{"spaces", proxied, false, []string{"X-Forwarded-For: $V,$A", "X-Forwarded-For: $V,  \t $A", "X-Forwarded-For: \t$A \t"}},
	{"a /64 of addresses", proxied, false, []string{"X-Forwarded-For: 2001:db8:$k::$i", "X-Forwarded-For: 2001:db8:$k:0:$i:$i:$i:$i", "X-Forwarded-For: 2001:db8:$k::203.0.113.$i"}},
	{"one address in many forms", proxied, false, []string{"X-Forwarded-For: 2001:db8:$k::a", "X-Forwarded-For: 2001:DB8:$k::A", "X-Forwarded-For: 2001:0db8:$k:0000:0000:0000:0000:000a", "X-Forwarded-For: [2001:db8:$k::a]:$i", "X-Forwarded-For: [2001:db8:$k::a]"}},
	{"zones", proxied, false, []string{"X-Forwarded-For: 2001:db8:$k::1%$i", "X-Forwarded-For: 2001:db8:$k::1%25eth$i", "X-Forwarded-For: [2001:db8:$k::1%eth$i]:80"}},

	{"one key in many spellings of the header", apiKey, false, []string{"X-API-Key: $A", "x-api-key: $A", "X-Api-Key: $A", "X-API-KEY: $A"}},
	{"spaces around the key", apiKey, false, []string{"X-API-Key:$A", "X-API-Key:    $A", "X-API-Key: $A   ", "X-API-Key:\t$A\t"}},
	{"the victim's key beside one's own", apiKey, false, []string{"X-API-Key: $V\nX-API-Key: $A", "X-API-Key: $A\nX-API-Key: $V", "x-api-key: $V\nX-API-KEY: $A"}},
	{"keys in a list", apiKey, false, []string{"X-API-Key: $V, $A"}},
	{"a key that is too long", apiKey, false, []string{"X-API-Key: $V" + strings.Repeat("k", 20_000) + "$i"}},
	{"no key", apiKey, false, []string{"", "X-API-Key:", "X_API_Key: $A", "GET /api/report?X-API-Key=$A", "Cookie: X-API-Key=$A", "Authorization: $A"}},
	{"a key that imitates an address", apiKey, false, []string{"X-API-Key: ip:127.4.$k.1"}},
	{"a key that imitates a log", apiKey, false, []string{"X-API-Key: $V}:report:60000"}},
	{"a key that imitates a hash", apiKey, false, []string{"X-API-Key: header:x-api-key:$V"}},
	{"a key that imitates an escape", apiKey, false, []string{"X-API-Key: %24V$k"}},
	{"another address for one key", apiKey, false, []string{"X-API-Key: $A\nX-Forwarded-For: 203.0.113.$i", "X-API-Key: $A\nForwarded: for=$i"}},

	{"a key twice, to be counted by address", either, false, []string{"X-API-Key: $A", "X-API-Key: $A\nX-API-Key: $A", "X-API-Key: $A\nX-API-Key:"}},
	{"a key that is too long, to be counted by address", either, false, []string{"X-API-Key: $A", "X-API-Key: $A" + strings.Repeat("k", 20_000)}},
	{"a key with a tab, to be counted by address", either, false, []string{"X-API-Key: $A", "X-API-Key: $A\t$A"}},
	{"two tokens, to be counted by address", either, false, []string{"Authorization: Bearer $A", "Authorization: Bearer $A, Bearer $A", "Authorization: Bearer $A $A"}},
	{"a token behind a tab, to be counted by address", either, false, []string{"Authorization: Bearer $A", "Authorization: Bearer\t$A", "Authorization: Bearer \t$A"}},
	{"a token behind a space, to be counted by address", either, false, []string{"Authorization: Bearer $A", "Authorization:  Bearer $A", "Authorization: \tBearer $A"}},
	{"line breaks in a key of the query", query, false, []string{"GET /query?api_key=$A", "GET /query?api_key=$A%0A", "GET /query?api_key=$A%0D%0A", "GET /query?api_key=%0A$A"}},
	{"other control characters in it", query, false, []string{"GET /query?api_key=$A", "GET /query?api_key=$A%00", "GET /query?api_key=$A%09", "GET /query?api_key=$A%7F"}},
	{"control characters in a cookie", cookie, false, []string{"Cookie: session=$A", "Cookie: session=$A%0A", "Cookie: session=%0D$A", "Cookie: session=$A%00"}},
	{"spaces that only Unicode knows, around a key", apiKey, false, []string{"X-API-Key: $A", "X-API-Key: $A\u00a0", "X-API-Key: \u2003$A", "X-API-Key: $A\u3000\u3000"}},
	{"spaces around a key of the query", query, false, []string{"GET /query?api_key=$A", "GET /query?api_key=$A%20", "GET /query?api_key=++$A", "GET /query?api_key=%C2%A0$A"}},
	{"spaces around a cookie", cookie, false, []string{"Cookie: session=$A", "Cookie: session=$A%20", "Cookie: session=%E3%80%80$A", "Cookie: session=+$A"}},
	{"spaces around a parameter of the path", param, false, []string{"GET /path/$A", "GET /path/$A%20", "GET /path/%C2%A0$A", "GET /path/%20%20$A"}},
	{"spaces that only Unicode knows, around a token", token, false, []string{"Authorization: Bearer $A", "Authorization: Bearer $A\u00a0", "Authorization: Bearer \u2003$A"}},
	{"a token behind one, to be counted by address", either, false, []string{"Authorization: Bearer $A", "Authorization: Bearer\u00a0$A", "Authorization: Bearer\u3000 $A"}},
	{"one cookie in many spellings", cookie, false, []string{"Cookie: session=$A", "Cookie: session=%41$k", "Cookie: session=\"$A\"", "Cookie: x=$i; session=$A"}},
	{"control characters in the path", param, false, []string{"GET /path/$A", "GET /path/$A%0A", "GET /path/%41$k%0D%0A", "GET /path/%00$A"}},

	{"one token in many spellings of the scheme", token, false, []string{"Authorization: Bearer $A", "Authorization: bearer $A", "authorization: BEARER $A", "Authorization: bEARER $A"}},
	{"spaces before the token", token, false, []string{"Authorization: Bearer $A", "Authorization: Bearer   $A", "Authorization: Bearer \t$A"}},
	{"two tokens", token, false, []string{"Authorization: Bearer $V $A", "Authorization: Bearer $A $V", "Authorization: Bearer $V, Bearer $A", "Authorization: Bearer $V,$A"}},
	{"two fields with tokens", token, false, []string{"Authorization: Bearer $V\nAuthorization: Bearer $A", "Authorization: Bearer $A\nAuthorization: Bearer $V"}},
	{"another scheme", token, false, []string{"Authorization: Basic $V", "Authorization: Token $V", "Authorization: Bearer", "Authorization: $V", "Authorization: Bearer\t$V"}},
	{"the token elsewhere", token, false, []string{"GET /api/me?access_token=$V", "Cookie: access_token=$V", "X-Authorization: Bearer $V", "Proxy-Authorization: Bearer $V"}},

	{"one item, encoded", vote, false, []string{"", "POST /api/items/it%65m$k/votes", "POST /api/items/%69%74%65%6D$k/votes", "POST /api/items/%69%74%65%6d$k/votes?$i"}},
	{"one item, with slashes", vote, false, []string{"POST /api/items//item$k/votes", "POST /api/items/item$k//votes", "POST /api/items/item$k/votes/", "POST //api/items/item$k/votes"}},
	{"one item, with dots", vote, false, []string{"POST /api/items/./item$k/votes", "POST /api/items/x/../item$k/votes", "POST /api/items/item$k/./votes"}},
	{"one item, other addresses", vote, false, []string{"X-Forwarded-For: 203.0.113.$i", "Forwarded: for=$V", "X-Real-IP: $V"}},
	{"an item that imitates the victim's vote", vote, false, []string{"POST /api/items/item$k:14:ip:127.8.$k.1/votes", "POST /api/items/item$k%3A14%3Aip%3A127.8.$k.1/votes"}},
	{"no item", vote, false, []string{"POST /api/items//votes", "POST /api/items/votes", "POST /api/items/%00/votes"}},
}

// None of what attackers try gets them more than Max, nor spends what belongs to their victim.
func TestEvasions(t *testing.T) {
	redistest.Long(t)
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127.0.0.0/8 on loopback, as Linux has it")
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
						if row.prey.keys {
							clients.addr = keys
						}
						defer clients.close()
						attacker := name(row.prey, "A", k)
						who := strings.NewReplacer("$A", attacker, "$V", name(row.prey, "V", k), "$k", fmt.Sprint(k+1), "$6", sixToFour(attacker))
						var admitted atomic.Int64
						var all sync.WaitGroup
						try := func(i int) {
							text := strings.ReplaceAll(who.Replace(row.tries[i%len(row.tries)]), "$i", fmt.Sprint(i+1))
							if clients.send(who.Replace(row.prey.from), who.Replace(row.prey.line), text) == http.StatusOK {
								admitted.Add(1)
							}
						}
						for i := range 3 * row.prey.max {
							if strings.Contains(row.tries[0], "X-At-Once") {
								all.Go(func() { try(i) })
							} else {
								try(i)
							}
						}
						all.Wait()
						assert.LessOrEqual(t, int(admitted.Load()), row.prey.max)
						for i := range row.prey.max {
							honest := strings.ReplaceAll(row.prey.honest, "$W", name(row.prey, "V", k))
							status := clients.send(who.Replace(row.prey.fromElse), who.Replace(row.prey.line), honest)
							assert.Equal(t, http.StatusOK, status, "request %d of the victim", i+1)
						}
					})
				}
			})
		}
	}
}

// serveKeys serves the keys that the examples do not use, and returns the address.
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

// name is what tells the attacker or the victim of a row from all others: what the limit counts by.
func name(p prey, who string, k int) string {
	switch {
	case strings.HasPrefix(p.honest, "X-Forwarded-For"):
		return fmt.Sprintf("198.%d.%d.1", map[string]int{"A": 18, "V": 19}[who], k+1)
	case p.honest == "":
		return strings.ReplaceAll(map[string]string{"A": p.from, "V": p.fromElse}[who], "$k", fmt.Sprint(k+1))
	}
	return fmt.Sprintf("%s%d", who, k+1)
}

// sixToFour is the prefix of 6to4 (RFC 3056) of an IPv4 address; empty for what is none.
func sixToFour(addr string) string {
	four := net.ParseIP(addr).To4()
	if four == nil {
		return ""
	}
	return fmt.Sprintf("2002:%x:%x", []byte(four[:2]), []byte(four[2:]))
}

// leaves is in the headers of a request whose client does not wait for the answer.
const leaves = "X-Leaves: yes"

// attackers send requests from addresses of their choice, over one protocol.
type attackers struct {
	t     *testing.T
	addr  string
	http1 bool
	mu    sync.Mutex
	h2c   map[string]*http.Transport
}

// send returns the status of the answer to a request, whose text is headers, or a request line and headers.
func (a *attackers) send(from, line, text string) int {
	first, rest, _ := strings.Cut(text, "\n")
	if method, _, found := strings.Cut(first, " "); found && !strings.Contains(method, ":") && !strings.Contains(first, " : ") {
		line, text = first, rest
	}
	if a.http1 {
		return a.sendHTTP1(from, line, text)
	}
	return a.sendH2C(from, line, text)
}

func (a *attackers) dial(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.Dial("tcp", a.addr)
}

func (a *attackers) sendHTTP1(from, line, header string) int {
	conn, err := a.dial(from)
	require.NoError(a.t, err)
	defer conn.Close()
	if !strings.Contains(line, " HTTP/") {
		line += " HTTP/1.1"
	}
	if !strings.Contains(header, "Host:") {
		header = "Host: example.com\n" + header
	}
	if !strings.Contains(header, "Content-Length") && !strings.HasPrefix(line, "GET") {
		header += "\nContent-Length: 0"
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "%s\r\n%s\r\n\r\n", line, strings.ReplaceAll(strings.Trim(header, "\n"), "\n", "\r\n"))
	if strings.Contains(header, "chunked") {
		fmt.Fprint(conn, "0\r\n\r\n")
	}
	if strings.Contains(header, leaves) {
		return 0
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if !assert.NoError(a.t, err, line) {
		return 0
	}
	return outcome(response)
}

func (a *attackers) sendH2C(from, line, header string) int {
	a.mu.Lock()
	transport := a.h2c[from]
	if transport == nil {
		transport = &http.Transport{
			Protocols:   new(http.Protocols),
			DialContext: func(context.Context, string, string) (net.Conn, error) { return a.dial(from) },
		}
		transport.Protocols.SetUnencryptedHTTP2(true)
		a.h2c[from] = transport
	}
	a.mu.Unlock()
	method, target, _ := strings.Cut(line, " ")
	u, err := url.ParseRequestURI(target)
	if err != nil { // net/http's client cannot send it, and its server would not take it
		return http.StatusBadRequest
	}
	u.Scheme, u.Host = "http", a.addr
	r := &http.Request{Method: method, URL: u, Header: http.Header{}}
	for line := range strings.Lines(header) {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSuffix(strings.TrimPrefix(value, " "), "\n"); name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value) // HTTP/2 has small letters only, and keeps the whitespace around values
		}
	}
	if strings.Contains(header, leaves) {
		ctx, leave := context.WithCancel(context.Background())
		wrote := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { leave() }}
		if response, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx, wrote))); err == nil {
			response.Body.Close()
		}
		leave()
		return 0
	}
	response, err := transport.RoundTrip(r)
	if !assert.NoError(a.t, err, line) {
		return 0
	}
	assert.Equal(a.t, 2, response.ProtoMajor)
	return outcome(response)
}

// outcome is the status of an answer; zero if it is 200 and no handler's, as net/http itself answers OPTIONS of all.
func outcome(response *http.Response) int {
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusOK && !strings.Contains(string(body), `"answer"`) {
		return 0
	}
	return response.StatusCode
}

func (a *attackers) close() {
	for _, transport := range a.h2c {
		transport.CloseIdleConnections()
	}
}
