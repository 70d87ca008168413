package echolimit_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
)

func Example() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // empty: in this process, without Redis
	if err != nil {
		log.Fatal(err)
	}
	byIP := echolimit.New(limiter, echolimit.ClientIP())

	e := echo.New()
	e.Use(byIP.Limit(core.PerMinute("site", 300)))
	e.POST("/login", func(c echo.Context) error {
		return c.String(http.StatusOK, "welcome\n")
	}, byIP.Limit(core.PerMinute("login", 5)))
	log.Fatal(e.Start("127.0.0.1:8080"))
}

// What the examples below share.
var (
	limiter, _ = core.NewInProcess()
	byIP       = echolimit.New(limiter, echolimit.ClientIP())
)

func answer(c echo.Context) error { return c.String(http.StatusOK, "answer") }

func get(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w
}

// post sends a request, and returns what a client sees of the response.
func post(h http.Handler, target string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", target, nil))
	if w.Code == http.StatusTooManyRequests {
		return fmt.Sprintf("%d, come back in %s seconds", w.Code, w.Header().Get("Retry-After"))
	}
	return fmt.Sprint(w.Code)
}

// While Redis does not respond, logins are refused, and searches are limited by each instance.
func ExampleNew_onFailure() {
	search := echolimit.New(limiter, echolimit.ClientIP())
	login := echolimit.New(limiter.OnFailure(core.FailClosed), echolimit.ClientIP())

	e := echo.New()
	e.GET("/search", answer, search.Limit(core.PerSecond("search", 5)))
	e.POST("/login", answer, login.Limit(core.PerMinute("login", 5)))
}

func ExampleMiddleware_Limit() {
	e := echo.New()
	e.Use(byIP.Limit(core.PerMinute("site", 300)))
	api := e.Group("/api", byIP.Limit(core.PerMinute("api", 100)))
	api.GET("/search", answer, byIP.Limit(core.PerSecond("search", 5), core.PerHour("search-hourly", 500)))
	api.GET("/export", answer, byIP.Limit(core.Limit{Name: "export", Max: 2, Window: 10 * time.Minute}))

	for range 3 {
		fmt.Println(get(e, "/api/export").Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

// A client may have three reports in progress, and a hundred per day.
func ExampleMiddleware_Limit_inFlight() {
	e := echo.New()
	e.GET("/reports", answer,
		byIP.Limit(core.InFlight("reports", 3, 30*time.Second), core.PerDay("reports-daily", 100)))

	w := get(e, "/reports")
	fmt.Println(w.Header().Get("RateLimit-Policy"))
	fmt.Println(w.Header().Get("RateLimit"))
	// Output:
	// "reports";q=3;qu="concurrent-requests", "reports-daily";q=100;w=86400
	// "reports";r=2, "reports-daily";r=99
}

func ExampleMiddleware_LimitFunc() {
	e := echo.New()
	e.GET("/report", answer, byIP.LimitFunc(func(c echo.Context) ([]core.Limit, error) {
		if c.Get("plan") == "pro" {
			return []core.Limit{core.PerMinute("report", 30)}, nil
		}
		return []core.Limit{core.PerMinute("report", 3)}, nil
	}))

	fmt.Println(get(e, "/report").Header().Values("RateLimit-Policy"))
	// Output: ["report";q=3;w=60]
}

func ExampleNew() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	byAPIKey := echolimit.New(limiter, echolimit.Header("X-API-Key"))
	byEither := echolimit.New(limiter, echolimit.FirstOf(echolimit.Header("X-API-Key"), echolimit.ClientIP()))
	byUser := echolimit.New(limiter, func(c echo.Context) (string, error) {
		if user, _ := c.Get("user").(string); user != "" { // set by your authentication, which runs before
			return "user:" + user, nil
		}
		return "", nil // no user: 401
	})

	for path, m := range map[string]*echolimit.Middleware{
		"/ip": byIP, "/key": byAPIKey, "/either": byEither, "/user": byUser,
	} {
		e.GET(path, answer, m.Limit(core.PerMinute("any", 5)))
	}
	fmt.Println(get(e, "/ip").Code, get(e, "/key").Code, get(e, "/either").Code, get(e, "/user").Code)
	// Output: 200 401 200 401
}

func ExampleOnDenied() {
	e := echo.New()
	byIP := echolimit.New(limiter, echolimit.ClientIP(),
		echolimit.OnDenied(func(c echo.Context, d core.Decision) error {
			return c.String(http.StatusTooManyRequests,
				fmt.Sprintf("Slow down: %v to go.\n", d.RetryAfter.Round(time.Second)))
		}))

	e.GET("/once", answer, byIP.Limit(core.PerMinute("once", 1)))
	get(e, "/once")
	fmt.Print(get(e, "/once").Body)
	// Output: Slow down: 1m0s to go.
}

func ExampleTrustedProxies() {
	byClient := echolimit.New(limiter, echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8", "fd00::/8")))

	e := echo.New()
	e.GET("/proxied", answer, byClient.Limit(core.PerMinute("proxied", 1)))
	for _, forwarded := range []string{"203.0.113.7", "203.0.113.8", "1.2.3.4, 203.0.113.7"} {
		request := httptest.NewRequest("GET", "/proxied", nil)
		request.RemoteAddr = "10.0.0.1:80"
		request.Header.Set("X-Forwarded-For", forwarded)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, request)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleRoutes() {
	e := echo.New()
	routes := echolimit.Routes{
		"GET /search":   {core.PerSecond("search", 5), core.PerHour("search-hourly", 500)},
		"POST /login":   {core.PerMinute("login", 5)},
		"GET /healthz":  nil,                             // without limits, on purpose
		"RouteNotFound": {core.PerMinute("unknown", 30)}, // requests that match no route
	}
	e.Use(byIP.LimitRoutes(routes))
	e.GET("/search", answer)
	e.POST("/signin", answer)
	e.GET("/healthz", answer)
	if err := routes.CheckAll(e); err != nil {
		fmt.Println(err)
	}
	// Output:
	// exactlimit: Routes does not match the registered routes:
	// 	POST /login: has limits, but no such route is registered
	// 	POST /signin: has no entry: write its limits, or nil if it needs none
}

func ExampleCost() {
	reports := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Cost(func(c echo.Context) int {
		if c.QueryParam("format") == "pdf" {
			return 10
		}
		return 1
	}))
	e := echo.New()
	e.GET("/reports", answer, reports.Limit(core.PerHour("reports", 12)))
	for _, target := range []string{"/reports?format=pdf", "/reports?format=pdf", "/reports"} {
		fmt.Println(get(e, target).Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

func ExampleCountOnly() {
	failures := echolimit.New(limiter, echolimit.ClientIP(), echolimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	e := echo.New()
	e.GET("/login", func(c echo.Context) error {
		if c.QueryParam("password") != "sesame" {
			return echo.ErrUnauthorized
		}
		return c.NoContent(http.StatusOK)
	}, failures.Limit(core.PerMinute("failed-logins", 2)))
	for _, password := range []string{"sesame", "sesame", "sesame", "guess", "guess", "guess"} {
		fmt.Println(get(e, "/login?password="+password).Code)
	}
	// Output:
	// 200
	// 200
	// 200
	// 401
	// 401
	// 429
}

// A guard against password guessing, like rules of fail2ban. Only failures count. A client with more than Max failures
// in a Window is denied for the whole Ban, whatever it sends.
func ExampleCountOnly_ban() {
	login := func(c echo.Context) error {
		if c.QueryParam("password") != "sesame" {
			return echo.ErrUnauthorized
		}
		return c.NoContent(http.StatusOK)
	}
	failures := echolimit.New(limiter, echolimit.ClientIP(), echolimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	e := echo.New()
	guard := core.Limit{Name: "guesses", Max: 5, Window: time.Minute, Ban: time.Hour}
	e.POST("/login", login, failures.Limit(guard))
	for _, password := range []string{"a", "b", "c", "d", "e", "sesame"} { // the last one is correct, but too late
		fmt.Println(post(e, "/login?password="+password))
	}
	// Output:
	// 401
	// 401
	// 401
	// 401
	// 401
	// 429, come back in 3600 seconds
}

// The RateLimit-Policy field names the unit of a limit, unless it counts requests.
func ExampleCost_unit() {
	completions := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Cost(func(c echo.Context) int { return 600 }))
	e := echo.New()
	tokens := core.Limit{Name: "tokens", Max: 1000, Window: time.Minute, Unit: "tokens"}
	e.GET("/completions", answer, completions.Limit(tokens))
	fmt.Println(get(e, "/completions").Header().Get("RateLimit-Policy"))
	// Output: "tokens";q=1000;w=60;qu="tokens"
}

// Staff are not limited. An authentication before the limiter sets "staff". Echo's own middleware calls such a
// function a Skipper.
func ExampleExempt() {
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Exempt(func(c echo.Context) bool {
		return c.Get("staff") == true // set by your authentication
	}))
	authenticate := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Set("staff", c.QueryParam("token") == "sesame")
			return next(c)
		}
	}
	e := echo.New()
	e.GET("/prices", answer, authenticate, byIP.Limit(core.PerMinute("prices", 1)))
	for _, token := range []string{"", "", "sesame"} {
		w := get(e, "/prices?token="+token)
		fmt.Println(w.Code, w.Header()["Ratelimit"])
	}
	// Output:
	// 200 ["prices";r=0;t=60]
	// 429 ["prices";r=0;t=60]
	// 200 []
}

func ExampleDryRun() {
	trial := echolimit.New(limiter, echolimit.ClientIP(), echolimit.DryRun())
	e := echo.New()
	e.GET("/trial", answer, trial.Limit(core.PerMinute("trial", 1)))
	for range 2 {
		w := get(e, "/trial")
		fmt.Println(w.Code, w.Header()["Ratelimit"])
	}
	// Output:
	// 200 ["trial";r=0;t=60]
	// 200 ["trial";r=0;t=60]
}
