package ginlimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
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
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.PlainText())
	r.GET("/plain", byIP.Limit(core.PerMinute("plain", 1)), answer)
	get(r, "/plain")
	fmt.Print(get(r, "/plain").Body)
	// Output: Request cannot be satisfied as assigned quota has been exceeded
}

func ExampleNoFields() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.NoFields())
	r.GET("/secretive", byIP.Limit(core.PerMinute("secretive", 1)), answer)
	for range 2 {
		w := get(r, "/secretive")
		fmt.Println(w.Code, w.Header().Values("RateLimit"), w.Header().Values("Retry-After"))
	}
	// Output:
	// 200 [] []
	// 429 [] [60]
}

func ExampleLegacyFields() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.LegacyFields())
	r.GET("/legacy", byIP.Limit(core.PerMinute("legacy", 3)), answer)
	w := get(r, "/legacy")
	fmt.Println(w.Header().Get("X-RateLimit-Limit"), w.Header().Get("X-RateLimit-Remaining"))
	// Output: 3 2
}

func ExampleClientIP() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	r.GET("/address", byIP.Limit(core.PerMinute("address", 1)), answer)
	for _, claimed := range []string{"203.0.113.7", "203.0.113.8"} { // not trusted
		fmt.Println(with(r, "/address", "X-Forwarded-For", claimed).Code)
	}
	// Output:
	// 200
	// 429
}

func ExampleProxyHeader() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies("192.0.2.0/24"),
		ginlimit.ProxyHeader("CF-Connecting-IP")))
	r.GET("/cdn", byIP.Limit(core.PerMinute("cdn", 1)), answer)
	for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.7"} {
		fmt.Println(with(r, "/cdn", "CF-Connecting-IP", client).Code) // from 192.0.2.1
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleIPv6Prefix() {
	r := gin.New()
	byHome := ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.IPv6Prefix(56)))
	r.GET("/home", byHome.Limit(core.PerMinute("home", 1)), answer)
	for _, client := range []string{"[2001:db8:0:1::7]:80", "[2001:db8:0:2::7]:80", "[2001:db8:1::7]:80"} {
		request := httptest.NewRequest("GET", "/home", nil)
		request.RemoteAddr = client
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

func ExampleFrameworkClientIP() {
	r := gin.New()
	if err := r.SetTrustedProxies([]string{"192.0.2.0/24"}); err != nil {
		panic(err)
	}
	byIP := ginlimit.New(limiter, ginlimit.FrameworkClientIP())
	r.GET("/framework", byIP.Limit(core.PerMinute("framework", 1)), answer)
	for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.7"} {
		fmt.Println(with(r, "/framework", "X-Forwarded-For", client).Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleHeader() {
	r := gin.New()
	byAPIKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"))
	r.GET("/header", byAPIKey.Limit(core.PerMinute("header", 1)), answer)
	fmt.Println(with(r, "/header", "X-API-Key", "ann's").Code,
		with(r, "/header", "X-API-Key", "bob's").Code, get(r, "/header").Code)
	// Output: 200 200 401
}

func ExampleHashKey() {
	secret := []byte(os.Getenv("KEY_SECRET")) // at least 16 bytes, the same in all instances
	if len(secret) == 0 {
		secret = []byte("only for this example")
	}
	r := gin.New()
	byAPIKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key", ginlimit.HashKey(secret)))
	r.GET("/hashed", byAPIKey.Limit(core.PerMinute("hashed", 1)), answer)
	fmt.Println(with(r, "/hashed", "X-API-Key", "ann's").Code)
	// Output: 200
}

func ExampleBearerToken() {
	r := gin.New()
	byToken := ginlimit.New(limiter, ginlimit.BearerToken())
	r.GET("/bearer", byToken.Limit(core.PerMinute("bearer", 1)), answer)
	fmt.Println(with(r, "/bearer", "Authorization", "Bearer ann's").Code,
		get(r, "/bearer").Header().Get("WWW-Authenticate"))
	// Output: 200 Bearer
}

func ExampleCookie() {
	r := gin.New()
	bySession := ginlimit.New(limiter, ginlimit.Cookie("session"))
	r.GET("/cookie", bySession.Limit(core.PerMinute("cookie", 1)), answer)
	fmt.Println(with(r, "/cookie", "Cookie", "session=ann's").Code, get(r, "/cookie").Code)
	// Output: 200 401
}

func ExampleQuery() {
	r := gin.New()
	byKey := ginlimit.New(limiter, ginlimit.Query("api_key"))
	r.GET("/query", byKey.Limit(core.PerMinute("query", 1)), answer)
	fmt.Println(get(r, "/query?api_key=ann").Code, get(r, "/query").Code)
	// Output: 200 401
}

func ExamplePathParam() {
	r := gin.New()
	byRoom := ginlimit.New(limiter, ginlimit.PathParam("room"))
	r.GET("/rooms/:room", byRoom.Limit(core.PerMinute("room", 1)), answer)
	for _, target := range []string{"/rooms/1", "/rooms/2", "/rooms/1"} {
		fmt.Println(get(r, target).Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleRoute() {
	r := gin.New()
	r.Use(ginlimit.New(limiter, ginlimit.Route()).Limit(core.PerMinute("route", 1)))
	r.GET("/users/:id", answer)
	r.GET("/teams/:id", answer)
	for _, target := range []string{"/users/1", "/users/2", "/teams/1"} {
		fmt.Println(get(r, target).Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

func ExampleGlobal() {
	r := gin.New()
	everybody := ginlimit.New(limiter, ginlimit.Global())
	r.GET("/export", everybody.Limit(core.PerMinute("exports", 1)), answer)
	fmt.Println(get(r, "/export").Code, get(r, "/export").Code)
	// Output: 200 429
}

func ExampleJoin() {
	r := gin.New()
	byBoth := ginlimit.New(limiter, ginlimit.Join(ginlimit.PathParam("room"), ginlimit.ClientIP()))
	r.GET("/halls/:room", byBoth.Limit(core.PerMinute("hall", 1)), answer)
	fmt.Println(get(r, "/halls/1").Code, get(r, "/halls/2").Code, get(r, "/halls/1").Code)
	// Output: 200 200 429
}

func ExampleFirstOf() {
	r := gin.New()
	byEither := ginlimit.New(limiter, ginlimit.FirstOf(ginlimit.Header("X-API-Key"), ginlimit.ClientIP()))
	r.GET("/either", byEither.Limit(core.PerMinute("either", 1)), answer)
	fmt.Println(with(r, "/either", "X-API-Key", "ann's").Code, get(r, "/either").Code, get(r, "/either").Code)
	// Output: 200 200 429
}

func ExampleMiddleware_LimitRoutes() {
	r := gin.New()
	ginlimit.Use(r, byIP.LimitRoutes(ginlimit.Routes{"GET /table": {core.PerMinute("table", 1)}}))
	r.GET("/table", answer)
	r.GET("/free", answer)
	fmt.Println(get(r, "/table").Code, get(r, "/table").Code, get(r, "/free").Code)
	// Output: 200 429 200
}

func ExampleRoutes_Check() {
	r := gin.New()
	r.GET("/table", answer)
	r.GET("/free", answer) // without an entry, which only CheckAll reports
	fmt.Println(ginlimit.Routes{"GET /table": {core.PerMinute("table", 1)}}.Check(r))
	// Output: <nil>
}

func ExampleRoutes_CheckAll() {
	r := gin.New()
	r.GET("/table", answer)
	r.GET("/free", answer)
	routes := ginlimit.Routes{"GET /table": {core.PerMinute("table", 1)}, "GET /free": nil, "NoRoute": nil}
	fmt.Println(routes.CheckAll(r))
	// Output: <nil>
}

// Gin would not limit the routes that are already registered.
func ExampleUse() {
	r := gin.New()
	r.GET("/early", answer)
	defer func() { fmt.Println(strings.Contains(fmt.Sprint(recover()), "GET /early")) }()
	ginlimit.Use(r, byIP.Limit(core.PerMinute("site", 300)))
	// Output: true
}

// In place of ulule/limiter.
func Example_fromUlule() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	r.Use(byIP.Limit(core.PerMinute("site", 300)))
}

// In place of tollbooth.
func Example_fromTollbooth() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	r.GET("/search", byIP.Limit(core.PerSecond("search", 5)), search)
}
