package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// The routes of adapters.Adapter.Guarded, as a client plays by the rules. Guesses are answered with 403 and count.
var (
	guardedAddress = target{max: 3, line: "POST /guarded/address",
		attackerFrom: "127.21.$k.1", victimFrom: "127.22.$k.1"}
	guardedProxied = target{max: 3, line: "POST /guarded/address", honest: "X-Forwarded-For: $C",
		attackerFrom: "127.0.0.1", victimFrom: "127.0.0.1"}
	guardedKey = target{max: 3, line: "POST /guarded/header", honest: "X-API-Key: $C",
		attackerFrom: "127.23.$k.1", victimFrom: "127.24.$k.1"}
	guardedToken = target{max: 3, line: "POST /guarded/bearer", honest: "Authorization: Bearer $C",
		attackerFrom: "127.25.$k.1", victimFrom: "127.26.$k.1"}
)

// banEvasions are what banned attackers try, to lift, shorten or escape their bans, or to have the victim banned. They
// are written as in evasions. A row begins with what gets the attacker banned; where that is empty, it is an honest
// client's guess.
var banEvasions = []struct {
	name   string
	target target
	http1  bool
	banned string
	tries  []string
}{
	{"going on", guardedAddress, false, "", []string{""}},
	{"leaving early", guardedAddress, false, leaves, []string{leaves, ""}},
	{"many at once", guardedAddress, false, "", []string{"X-At-Once: yes"}},
	{"the right password", guardedAddress, false, "", []string{"POST /guarded/address?status=200"}},
	{"an error of the handler", guardedAddress, false, "", []string{"POST /guarded/address?status=500"}},
	{"another method", guardedAddress, false, "", []string{
		"GET /guarded/address", "HEAD /guarded/address", "PUT /guarded/address", "OPTIONS /guarded/address",
		"DELETE /guarded/address", "BREW /guarded/address",
	}},
	{"another method in a header", guardedAddress, false, "", []string{
		"X-HTTP-Method-Override: GET", "X-Method-Override: HEAD",
	}},
	{"the method in small letters", guardedAddress, true, "", []string{"post /guarded/address"}},
	{"another route with the same log", guardedAddress, false, "", []string{
		"POST /open/address", "GET /open/address", "POST /open/address?status=200",
	}},
	{"a route with the same log first", guardedAddress, false, "POST /open/address", []string{""}},
	{"another query", guardedAddress, false, "", []string{"POST /guarded/address?i=$i", "POST /guarded/address?ip=$V"}},
	{"another path", guardedAddress, false, "", []string{
		"POST //guarded/address", "POST /guarded//address", "POST /guarded/address/", "POST /guarded/x/../address",
		"POST /GUARDED/ADDRESS", "POST /guarded/%61ddress", "POST /guarded%2Faddress", "POST /guarded/address;i=$i",
	}},
	{"absolute form", guardedAddress, true, "", []string{"POST http://$i.example.com/guarded/address"}},
	{"HTTP/1.0", guardedAddress, true, "", []string{"POST /guarded/address HTTP/1.0"}},
	{"another host", guardedAddress, false, "", []string{"Host: $i.example.com", "X-Forwarded-Host: $i.example.com"}},
	{"another address in headers", guardedAddress, false, "", []string{
		"X-Forwarded-For: 203.0.113.$i", "x-forwarded-for: 203.0.113.$i", "X-Real-IP: 203.0.113.$i",
		"Forwarded: for=203.0.113.$i", "CF-Connecting-IP: 203.0.113.$i", "True-Client-IP: 203.0.113.$i",
	}},
	{"as the victim", guardedAddress, false, "X-Forwarded-For: $V", []string{
		"X-Forwarded-For: $V", "Forwarded: for=$V", "X-Real-IP: $V", "X-Forwarded-For: $V\nX-Forwarded-For: $V",
	}},
	{"as the proxy", guardedAddress, false, "",
		[]string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: $V, 127.0.0.1"}},

	{"another address to the left", guardedProxied, false, "", []string{
		"X-Forwarded-For: 203.0.113.$i, $A", "X-Forwarded-For: , $A", "X-Forwarded-For: unknown, $A",
	}},
	{"the victim's to the left", guardedProxied, false, "X-Forwarded-For: $V, $A", []string{
		"X-Forwarded-For: $V, $A", "X-Forwarded-For: $V\nX-Forwarded-For: $A", "X-Forwarded-For: $V, $A, 127.0.0.1",
	}},
	{"other forms of the address", guardedProxied, false, "", []string{
		"X-Forwarded-For: ::ffff:$A", "X-Forwarded-For: [::ffff:$A]:$i", "X-Forwarded-For: $A:$i",
		"X-Forwarded-For: 0:0:0:0:0:FFFF:$A", "X-Forwarded-For: 64:ff9b::$A", "X-Forwarded-For: $6:$i::1",
		"X-Forwarded-For: ::ffff:$A%$i", "X-Forwarded-For: \t$A \t",
	}},
	{"banned in another form", guardedProxied, false, "X-Forwarded-For: [::ffff:$A]:80", []string{
		"X-Forwarded-For: $A", "X-Forwarded-For: 64:FF9B::$A",
	}},
	{"others of its /64", guardedProxied, false, "X-Forwarded-For: 2001:db8:$k::1", []string{
		"X-Forwarded-For: 2001:db8:$k::$i", "X-Forwarded-For: [2001:DB8:$k:0:$i::]:80",
		"X-Forwarded-For: 2001:db8:$k::1%$i",
	}},

	{"other spellings of the header", guardedKey, false, "", []string{
		"x-api-key: $A", "X-Api-Key: $A", "X-API-KEY: $A", "X-API-Key:   $A  ", "X-API-Key: $A\u00a0",
	}},
	{"banned by another spelling", guardedKey, false, "x-API-key:  $A ", []string{"X-API-Key: $A"}},
	{"the victim's key beside it", guardedKey, false, "", []string{
		"X-API-Key: $V\nX-API-Key: $A", "X-API-Key: $A\nX-API-Key: $V", "X-API-Key: $A\nCookie: X-API-Key=$V",
	}},
	{"another address for the key", guardedKey, false, "", []string{"X-API-Key: $A\nX-Forwarded-For: 203.0.113.$i"}},
	{"the key on another route", guardedKey, false, "", []string{
		"POST /open/header\nX-API-Key: $A", "GET /open/header?status=200\nX-API-Key: $A",
	}},
	{"no key", guardedKey, false, "", []string{"", "X-API-Key:", "X_API_Key: $A"}},

	{"other spellings of the scheme", guardedToken, false, "", []string{
		"Authorization: bearer $A", "authorization: BEARER $A", "Authorization: Bearer   $A",
		"Authorization: Bearer \t$A",
	}},
	{"banned by another spelling of the scheme", guardedToken, false, "authorization: bEARER  $A", []string{
		"Authorization: Bearer $A",
	}},
	{"two tokens", guardedToken, false, "", []string{
		"Authorization: Bearer $V $A", "Authorization: Bearer $A, Bearer $V",
		"Authorization: Bearer $A\nAuthorization: Bearer $V",
	}},
	{"the token on another route", guardedToken, false, "", []string{"POST /open/bearer\nAuthorization: Bearer $A"}},
}

// Once an attacker is banned, nothing that it tries reaches a handler: not while its guesses are in the log, not when
// they have expired, and not after a Reset of what is like its key. And no victim is banned, or has any guess less.
func TestBanEvasions(t *testing.T) {
	redistest.Long(t)
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127.0.0.0/8 on loopback, as Linux has it")
	}
	guard := core.Limit{Name: "guard", Max: 3, Window: 500 * time.Millisecond, Ban: time.Hour}
	for _, adapter := range adapters.All {
		for _, http1 := range []bool{true, false} {
			protocol, denials := "h2c", 0
			if http1 {
				protocol, denials = "HTTP1", 1000
			}
			t.Run(adapter.Dir+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				limiter, err := core.Connect(redistest.Shared(t).URL(), core.WithPrefix(redistest.Prefix()),
					core.WithTimeout(10*time.Second), core.WithDenialCache(denials, time.Second))
				require.NoError(t, err)
				defer limiter.Close()
				var running, ran atomic.Int64
				guarded := adapter.Guarded(limiter, guard, []string{"127.0.0.1"},
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						ran.Add(1)
						if r.Header.Get("X-Leaves") != "" { // so that the answer begins when the client has left
							select {
							case <-r.Context().Done():
							case <-time.After(10 * time.Second):
							}
						}
						status := http.StatusForbidden
						fmt.Sscan(r.URL.Query().Get("status"), &status)
						w.WriteHeader(status)
						io.WriteString(w, `{"answer":"yours"}`)
					}))
				clients := &attackers{t: t, http1: http1, h2c: map[string]*http.Transport{}}
				clients.addr = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					running.Add(1)
					defer running.Add(-1)
					guarded.ServeHTTP(w, r)
				}))
				defer clients.close()
				each := func(f func(k int, p target, banned string, requests []string, who *strings.Replacer)) {
					for k, row := range banEvasions {
						if !row.http1 || http1 {
							attacker := row.target.identity("A", k)
							f(k, row.target, row.banned, row.tries, strings.NewReplacer(
								"$A", attacker, "$V", row.target.identity("V", k), "$k", fmt.Sprint(k+1), "$6",
								sixToFour(attacker)))
						}
					}
				}
				send := func(who *strings.Replacer, p target, i int, text string) int {
					text = strings.ReplaceAll(who.Replace(text), "$i", fmt.Sprint(i+1))
					return clients.send(who.Replace(p.attackerFrom), who.Replace(p.line), text)
				}
				each(func(k int, p target, banned string, _ []string, who *strings.Replacer) {
					honest := strings.ReplaceAll(p.honest, "$C", p.identity("A", k))
					if banned == "" {
						banned = honest
					}
					last := banned // which tells whether it is banned
					if strings.Contains(banned, "/open/") {
						last = honest
					}
					deadline := time.Now().Add(20 * time.Second)
					for i, status := 0, 0; status != http.StatusTooManyRequests; i++ {
						require.True(t, time.Now().Before(deadline), "%s: it is never banned", banEvasions[k].name)
						for range p.max {
							send(who, p, i, banned)
						}
						status = send(who, p, i, last)
						if banned == leaves {
							d, err := limiter.Peek(t.Context(), "ip:"+p.identity("A", k), guard)
							require.NoError(t, err)
							if d.Banned {
								break
							}
						}
					}
				})
				require.Eventually(t, func() bool { return running.Load() == 0 }, 20*time.Second, time.Millisecond)
				ran.Store(0)
				attack := func() {
					each(func(k int, p target, _ string, tries []string, who *strings.Replacer) {
						var all sync.WaitGroup
						for i := range max(3*p.max, len(tries)) {
							text := tries[i%len(tries)]
							if strings.Contains(text, "X-At-Once") {
								all.Go(func() { send(who, p, i, text) })
							} else {
								send(who, p, i, text)
							}
						}
						all.Wait()
						assert.Zero(t, ran.Swap(0), banEvasions[k].name)
					})
				}
				attack()
				time.Sleep(guard.Window)
				attack()
				each(func(k int, p target, _ string, _ []string, who *strings.Replacer) {
					if p.honest == "" {
						key := "ip:" + p.identity("A", k)
						for _, like := range []string{
							key + "0", key[:len(key)-1], strings.ToUpper(key), key + "}", "{" + key + "}",
						} {
							require.NoError(t, limiter.Reset(t.Context(), like, guard))
						}
					}
				})
				attack()
				require.Eventually(t, func() bool { return running.Load() == 0 }, 20*time.Second, time.Millisecond)
				assert.Zero(t, ran.Load())
				each(func(k int, p target, _ string, _ []string, who *strings.Replacer) {
					honest := strings.ReplaceAll(p.honest, "$C", p.identity("V", k))
					for i := range p.max {
						status := clients.send(who.Replace(p.victimFrom), who.Replace(p.line), honest)
						assert.Equal(t, http.StatusForbidden, status, "%s: guess %d of the victim",
							banEvasions[k].name, i+1)
					}
				})
			})
		}
	}
}

// Ten clients behind one address log in at once, again and again, beside one failure less than begins a ban. Where one
// login is admitted at a time, all get in and nobody is banned. Where they are not, the same begins a ban.
func TestHonestLoginsBeginNoBan(t *testing.T) {
	guard := core.Limit{Name: "guard", Max: 5, Window: time.Hour, Ban: time.Hour}
	for _, adapter := range adapters.All {
		for _, route := range []string{"/single", "/guarded"} {
			t.Run(adapter.Dir+route, func(t *testing.T) {
				limiter, err := core.Connect(redistest.Shared(t).URL(), core.WithPrefix(redistest.Prefix()),
					core.WithTimeout(10*time.Second))
				require.NoError(t, err)
				defer limiter.Close()
				service := adapter.Guarded(limiter, guard, nil,
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						time.Sleep(time.Millisecond)
						if r.URL.RawQuery == "fails" {
							w.WriteHeader(http.StatusForbidden)
						}
					}))
				login := func(query string) int {
					w := httptest.NewRecorder()
					service.ServeHTTP(w, httptest.NewRequest("POST", route+"/address"+query, nil))
					return w.Code
				}
				for range guard.Max - 1 {
					require.Equal(t, http.StatusForbidden, login("?fails"))
				}
				banned := func() bool {
					d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", guard)
					return assert.NoError(t, err) && d.Banned
				}
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() {
						for in := 0; (route == "/guarded" || in < 3) && !banned(); time.Sleep(time.Millisecond) {
							if login("") == http.StatusOK {
								in++
							}
						}
					})
				}
				all.Wait()
				assert.Equal(t, route == "/guarded", banned())
			})
		}
	}
}
