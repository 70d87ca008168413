package echolimit_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
)

// with is get with header fields, given as name, value, name, value and so on.
func with(h http.Handler, target string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func ExamplePlainText() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.PlainText())
	e.GET("/plain", answer, byIP.Limit(core.PerMinute("plain", 1)))
	get(e, "/plain")
	fmt.Print(get(e, "/plain").Body)
	// Output: Request cannot be satisfied as assigned quota has been exceeded
}

func ExampleNoFields() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.NoFields())
	e.GET("/secretive", answer, byIP.Limit(core.PerMinute("secretive", 1)))
	for range 2 {
		w := get(e, "/secretive")
		fmt.Println(w.Code, w.Header().Values("RateLimit"), w.Header().Values("Retry-After"))
	}
	// Output:
	// 200 [] []
	// 429 [] [60]
}

func ExampleLegacyFields() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.LegacyFields())
	e.GET("/legacy", answer, byIP.Limit(core.PerMinute("legacy", 3)))
	w := get(e, "/legacy")
	fmt.Println(w.Header().Get("X-RateLimit-Limit"), w.Header().Get("X-RateLimit-Remaining"))
	// Output: 3 2
}

func ExampleClientIP() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	e.GET("/address", answer, byIP.Limit(core.PerMinute("address", 1)))
	for _, claimed := range []string{"203.0.113.7", "203.0.113.8"} { // not trusted
		fmt.Println(with(e, "/address", "X-Forwarded-For", claimed).Code)
	}
	// Output:
	// 200
	// 429
}

func ExampleProxyHeader() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP(echolimit.TrustedProxies("192.0.2.0/24"),
		echolimit.ProxyHeader("CF-Connecting-IP")))
	e.GET("/cdn", answer, byIP.Limit(core.PerMinute("cdn", 1)))
	for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.7"} {
		fmt.Println(with(e, "/cdn", "CF-Connecting-IP", client).Code) // from 192.0.2.1
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleIPv6Prefix() {
	e := echo.New()
	byHome := echolimit.New(limiter, echolimit.ClientIP(echolimit.IPv6Prefix(56)))
	e.GET("/home", answer, byHome.Limit(core.PerMinute("home", 1)))
	for _, client := range []string{"[2001:db8:0:1::7]:80", "[2001:db8:0:2::7]:80", "[2001:db8:1::7]:80"} {
		request := httptest.NewRequest("GET", "/home", nil)
		request.RemoteAddr = client
		w := httptest.NewRecorder()
		e.ServeHTTP(w, request)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

func ExampleFrameworkClientIP() {
	e := echo.New()
	_, proxies, err := net.ParseCIDR("192.0.2.0/24")
	if err != nil {
		panic(err)
	}
	e.IPExtractor = echo.ExtractIPFromXFFHeader(echo.TrustIPRange(proxies))
	byIP := echolimit.New(limiter, echolimit.FrameworkClientIP())
	e.GET("/framework", answer, byIP.Limit(core.PerMinute("framework", 1)))
	for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.7"} {
		fmt.Println(with(e, "/framework", "X-Forwarded-For", client).Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleHeader() {
	e := echo.New()
	byAPIKey := echolimit.New(limiter, echolimit.Header("X-API-Key"))
	e.GET("/header", answer, byAPIKey.Limit(core.PerMinute("header", 1)))
	fmt.Println(with(e, "/header", "X-API-Key", "ann's").Code,
		with(e, "/header", "X-API-Key", "bob's").Code, get(e, "/header").Code)
	// Output: 200 200 401
}

func ExampleHashKey() {
	secret := []byte(os.Getenv("KEY_SECRET")) // at least 16 bytes, the same in all instances
	if len(secret) == 0 {
		secret = []byte("only for this example")
	}
	e := echo.New()
	byAPIKey := echolimit.New(limiter, echolimit.Header("X-API-Key", echolimit.HashKey(secret)))
	e.GET("/hashed", answer, byAPIKey.Limit(core.PerMinute("hashed", 1)))
	fmt.Println(with(e, "/hashed", "X-API-Key", "ann's").Code)
	// Output: 200
}

func ExampleBearerToken() {
	e := echo.New()
	byToken := echolimit.New(limiter, echolimit.BearerToken())
	e.GET("/bearer", answer, byToken.Limit(core.PerMinute("bearer", 1)))
	fmt.Println(with(e, "/bearer", "Authorization", "Bearer ann's").Code,
		get(e, "/bearer").Header().Get("WWW-Authenticate"))
	// Output: 200 Bearer
}

func ExampleCookie() {
	e := echo.New()
	bySession := echolimit.New(limiter, echolimit.Cookie("session"))
	e.GET("/cookie", answer, bySession.Limit(core.PerMinute("cookie", 1)))
	fmt.Println(with(e, "/cookie", "Cookie", "session=ann's").Code, get(e, "/cookie").Code)
	// Output: 200 401
}

func ExampleQuery() {
	e := echo.New()
	byKey := echolimit.New(limiter, echolimit.Query("api_key"))
	e.GET("/query", answer, byKey.Limit(core.PerMinute("query", 1)))
	fmt.Println(get(e, "/query?api_key=ann").Code, get(e, "/query").Code)
	// Output: 200 401
}

func ExamplePathParam() {
	e := echo.New()
	byRoom := echolimit.New(limiter, echolimit.PathParam("room"))
	e.GET("/rooms/:room", answer, byRoom.Limit(core.PerMinute("room", 1)))
	for _, target := range []string{"/rooms/1", "/rooms/2", "/rooms/1"} {
		fmt.Println(get(e, target).Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleRoute() {
	e := echo.New()
	e.Use(echolimit.New(limiter, echolimit.Route()).Limit(core.PerMinute("route", 1)))
	e.GET("/users/:id", answer)
	e.GET("/teams/:id", answer)
	for _, target := range []string{"/users/1", "/users/2", "/teams/1"} {
		fmt.Println(get(e, target).Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

func ExampleGlobal() {
	e := echo.New()
	everybody := echolimit.New(limiter, echolimit.Global())
	e.GET("/export", answer, everybody.Limit(core.PerMinute("exports", 1)))
	fmt.Println(get(e, "/export").Code, get(e, "/export").Code)
	// Output: 200 429
}

func ExampleJoin() {
	e := echo.New()
	byBoth := echolimit.New(limiter, echolimit.Join(echolimit.PathParam("room"), echolimit.ClientIP()))
	e.GET("/halls/:room", answer, byBoth.Limit(core.PerMinute("hall", 1)))
	fmt.Println(get(e, "/halls/1").Code, get(e, "/halls/2").Code, get(e, "/halls/1").Code)
	// Output: 200 200 429
}

func ExampleFirstOf() {
	e := echo.New()
	byEither := echolimit.New(limiter, echolimit.FirstOf(echolimit.Header("X-API-Key"), echolimit.ClientIP()))
	e.GET("/either", answer, byEither.Limit(core.PerMinute("either", 1)))
	fmt.Println(with(e, "/either", "X-API-Key", "ann's").Code, get(e, "/either").Code, get(e, "/either").Code)
	// Output: 200 200 429
}

func ExampleMiddleware_LimitRoutes() {
	e := echo.New()
	e.Use(byIP.LimitRoutes(echolimit.Routes{"GET /table": {core.PerMinute("table", 1)}}))
	e.GET("/table", answer)
	e.GET("/free", answer)
	fmt.Println(get(e, "/table").Code, get(e, "/table").Code, get(e, "/free").Code)
	// Output: 200 429 200
}

func ExampleRoutes_Check() {
	e := echo.New()
	e.GET("/table", answer)
	e.GET("/free", answer) // without an entry, which only CheckAll reports
	fmt.Println(echolimit.Routes{"GET /table": {core.PerMinute("table", 1)}}.Check(e))
	// Output: <nil>
}

func ExampleRoutes_CheckAll() {
	e := echo.New()
	e.GET("/table", answer)
	e.GET("/free", answer)
	routes := echolimit.Routes{"GET /table": {core.PerMinute("table", 1)}, "GET /free": nil, "RouteNotFound": nil}
	fmt.Println(routes.CheckAll(e))
	// Output: <nil>
}

// In place of Echo's own.
func Example_fromRateLimiter() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	e.Use(byIP.Limit(core.PerSecond("site", 20)))
}
