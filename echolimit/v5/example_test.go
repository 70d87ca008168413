package echolimit_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
)

func Example() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // empty: in this process, without Redis
	if err != nil {
		log.Fatal(err)
	}
	byIP := echolimit.New(limiter, echolimit.ClientIP())

	e := echo.New()
	e.Use(byIP.Limit(core.PerMinute("site", 300)))
	e.POST("/login", func(c *echo.Context) error {
		return c.String(http.StatusOK, "welcome\n")
	}, byIP.Limit(core.PerMinute("login", 5)))
	log.Fatal(e.Start("127.0.0.1:8080"))
}

// What the examples below share.
var (
	limiter, _ = core.NewInProcess()
	byIP       = echolimit.New(limiter, echolimit.ClientIP())
)

func answer(c *echo.Context) error { return c.String(http.StatusOK, "answer") }

func get(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w
}

// post returns what a client sees of the answer to a request.
func post(h http.Handler, target string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", target, nil))
	if w.Code == http.StatusTooManyRequests {
		return fmt.Sprintf("%d, come back in %s seconds", w.Code, w.Header().Get("Retry-After"))
	}
	return fmt.Sprint(w.Code)
}

// Logins are closed while Redis does not answer; searches are limited by each instance then.
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

// Of the reports of one client, three are made at a time, and a hundred in a day.
func ExampleMiddleware_Limit_inFlight() {
	e := echo.New()
	e.GET("/reports", answer, byIP.Limit(core.InFlight("reports", 3, 30*time.Second), core.PerDay("reports-daily", 100)))

	w := get(e, "/reports")
	fmt.Println(w.Header().Get("RateLimit-Policy"))
	fmt.Println(w.Header().Get("RateLimit"))
	// Output:
	// "reports";q=3;qu="concurrent-requests", "reports-daily";q=100;w=86400
	// "reports";r=2, "reports-daily";r=99
}

func ExampleMiddleware_LimitFunc() {
	e := echo.New()
	e.GET("/report", answer, byIP.LimitFunc(func(c *echo.Context) ([]core.Limit, error) {
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
	byUser := echolimit.New(limiter, func(c *echo.Context) (string, error) {
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
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.OnDenied(func(c *echo.Context, d core.Decision) error {
		return c.String(http.StatusTooManyRequests, fmt.Sprintf("Slow down: %v to go.\n", d.RetryAfter.Round(time.Second)))
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
	reports := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Cost(func(c *echo.Context) int {
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

// The tokens that a language model may use are reserved, and those that it has used are charged, also those of a stream
// that its client has left.
func ExampleCostAfter() {
	e := echo.New()
	const most = 1000 // tokens of a completion: so many are reserved, and those that it has used are charged
	byKey := echolimit.New(limiter, echolimit.Header("X-API-Key"),
		echolimit.Cost(func(*echo.Context) int { return most }),
		echolimit.CostAfter(func(c *echo.Context) int {
			used, _ := c.Get("used").(int)
			return used
		}))
	e.POST("/chat", func(c *echo.Context) error {
		prompt, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		for chunk := range complete(c.Request().Context(), string(prompt), most) {
			c.Set("used", chunk.used) // as it goes, since the client may leave
			if _, err := io.WriteString(c.Response(), chunk.text); err != nil {
				return err
			}
			http.NewResponseController(c.Response()).Flush()
		}
		return nil
	}, byKey.Limit(core.PerMinute("tokens", 1500)))
	for _, leaves := range []bool{false, true, false} {
		w := chat(e, leaves)
		fmt.Println(w.Code, w.Header()["Ratelimit"], len(w.Body.String())/len("Because. "))
	}
	// Output:
	// 200 ["tokens";r=500;t=60] 5
	// 200 ["tokens";r=220;t=60] 1
	// 200 ["tokens";r=100;t=60] 5
}

func ExampleCountOnly() {
	failures := echolimit.New(limiter, echolimit.ClientIP(), echolimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	e := echo.New()
	e.GET("/login", func(c *echo.Context) error {
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

// A guard against guessed passwords, for which others write rules of fail2ban. Only failures count, and a client that
// makes more of them than Max in a Window is denied for all of Ban, whatever it tries meanwhile.
func ExampleCountOnly_ban() {
	login := func(c *echo.Context) error {
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
	for _, password := range []string{"a", "b", "c", "d", "e", "sesame"} { // the last one is right, and too late
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

// The RateLimit-Policy field says what a limit counts, unless that is requests.
func ExampleCost_unit() {
	completions := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Cost(func(c *echo.Context) int { return 600 }))
	e := echo.New()
	tokens := core.Limit{Name: "tokens", Max: 1000, Window: time.Minute, Unit: "tokens"}
	e.GET("/completions", answer, completions.Limit(tokens))
	fmt.Println(get(e, "/completions").Header().Get("RateLimit-Policy"))
	// Output: "tokens";q=1000;w=60;qu="tokens"
}

// Staff, as an authentication in front has found out, are not limited. Echo's own middleware calls such a function a
// Skipper.
func ExampleExempt() {
	byIP := echolimit.New(limiter, echolimit.ClientIP(), echolimit.Exempt(func(c *echo.Context) bool {
		return c.Get("staff") == true // as your authentication says
	}))
	authenticate := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
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

// chunk is a part of what a language model answers, and complete stands for a call of one, which ends when its context
// does.
type chunk struct {
	text string
	used int // tokens until now, those of the prompt among them
}

func complete(ctx context.Context, _ string, _ int) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		for i := range 5 {
			if ctx.Err() != nil || !yield(chunk{text: "Because. ", used: 120 + 40*i}) {
				return
			}
		}
	}
}

// chat has a client send a question, which may leave when the answer begins.
func chat(h http.Handler, leaves bool) *httptest.ResponseRecorder {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	w := &reader{ResponseRecorder: httptest.NewRecorder(), read: func() {
		if leaves {
			leave()
		}
	}}
	r := httptest.NewRequestWithContext(ctx, "POST", "/chat", strings.NewReader("Why is the sky blue?"))
	r.Header.Set("X-API-Key", "ann's")
	h.ServeHTTP(w, r)
	return w.ResponseRecorder
}

// reader is a client that reads an answer as it comes.
type reader struct {
	*httptest.ResponseRecorder
	read func()
}

func (r *reader) Flush() {
	r.ResponseRecorder.Flush()
	r.read()
}
