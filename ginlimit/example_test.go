package ginlimit_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

func Example() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // empty: in this process, without Redis
	if err != nil {
		log.Fatal(err)
	}
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())

	r := gin.Default()
	r.Use(byIP.Limit(core.PerMinute("site", 300)))
	r.POST("/login", byIP.Limit(core.PerMinute("login", 5)), func(c *gin.Context) {
		c.String(http.StatusOK, "welcome\n")
	})
	log.Fatal(r.Run("127.0.0.1:8080"))
}

// What the examples below share.
var (
	limiter, _             = core.NewInProcess()
	byIP                   = ginlimit.New(limiter, ginlimit.ClientIP())
	byPlan                 = byIP
	search, export, report = answer, answer, answer
)

func answer(c *gin.Context) { c.String(http.StatusOK, "answer") }

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
	search := ginlimit.New(limiter, ginlimit.ClientIP())
	login := ginlimit.New(limiter.OnFailure(core.FailClosed), ginlimit.ClientIP())

	r := gin.New()
	r.GET("/search", search.Limit(core.PerSecond("search", 5)), answer)
	r.POST("/login", login.Limit(core.PerMinute("login", 5)), answer)
}

func ExampleMiddleware_Limit() {
	r := gin.New()
	r.Use(byIP.Limit(core.PerMinute("site", 300)))
	api := r.Group("/api", byIP.Limit(core.PerMinute("api", 100)))
	api.GET("/search", byIP.Limit(core.PerSecond("search", 5), core.PerHour("search-hourly", 500)), search)
	api.GET("/export", byIP.Limit(core.Limit{Name: "export", Max: 2, Window: 10 * time.Minute}), export)

	for range 3 {
		fmt.Println(get(r, "/api/export").Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

// A client may have three reports in progress, and a hundred per day.
func ExampleMiddleware_Limit_inFlight() {
	r := gin.New()
	r.GET("/reports",
		byIP.Limit(core.InFlight("reports", 3, 30*time.Second), core.PerDay("reports-daily", 100)), report)

	w := get(r, "/reports")
	fmt.Println(w.Header().Get("RateLimit-Policy"))
	fmt.Println(w.Header().Get("RateLimit"))
	// Output:
	// "reports";q=3;qu="concurrent-requests", "reports-daily";q=100;w=86400
	// "reports";r=2, "reports-daily";r=99
}

// Webhooks are counted by the endpoint that receives them, because many customers of a sender share its addresses.
func ExamplePathParam_webhooks() {
	r := gin.New()
	byHook := ginlimit.New(limiter, ginlimit.PathParam("hook"))
	r.POST("/hooks/:hook", byHook.Limit(core.PerMinute("hooks", 60)), answer)

	fmt.Println(post(r, "/hooks/ann"))
	// Output: 200
}

// newService returns the service that TestExample tests.
func newService(limiter *core.Limiter) http.Handler {
	r := gin.New()
	r.GET("/search", ginlimit.New(limiter, ginlimit.ClientIP()).Limit(core.PerMinute("search", 2)), answer)
	return r
}

// A test of a service with limits, on a fake clock.
func TestExample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := core.NewInProcess()
		if err != nil {
			t.Fatal(err)
		}
		defer limiter.Close()
		service := newService(limiter)

		for i, want := range []int{200, 200, 429} {
			if got := get(service, "/search").Code; got != want {
				t.Errorf("request %d: got %d, want %d", i, got, want)
			}
		}
		time.Sleep(time.Minute) // the first two leave the window
		if got := get(service, "/search").Code; got != 200 {
			t.Errorf("a minute later: got %d, want 200", got)
		}
	})
}

// A proxy on the same machine.
func ExampleTrustedProxies_loopback() {
	byClient := ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies("127.0.0.1")))

	r := gin.New()
	r.Use(byClient.Limit(core.PerMinute("site", 300)))
}

// A response to denied uploads, for which a proxy can finish sending.
func ExampleOnDenied_uploads() {
	uploads := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.OnDenied(func(c *gin.Context, d core.Decision) {
		_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = io.CopyN(io.Discard, c.Request.Body, 100<<20) // the largest upload
		c.String(http.StatusTooManyRequests, "Upload again in %v.\n", d.RetryAfter.Round(time.Second))
	}))

	r := gin.New()
	r.POST("/upload", uploads.Limit(core.PerMinute("upload", 1)), answer)
	for range 2 {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("POST", "/upload", strings.NewReader("a film")))
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// 200 answer
	// 429 Upload again in 1m0s.
}

func ExampleMiddleware_LimitFunc() {
	r := gin.New()
	r.GET("/report", byPlan.LimitFunc(func(c *gin.Context) ([]core.Limit, error) {
		if c.GetString("plan") == "pro" {
			return []core.Limit{core.PerMinute("report", 30)}, nil
		}
		return []core.Limit{core.PerMinute("report", 3)}, nil
	}), report)

	fmt.Println(get(r, "/report").Header().Values("RateLimit-Policy"))
	// Output: ["report";q=3;w=60]
}

func ExampleNew() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	byAPIKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"))
	byEither := ginlimit.New(limiter, ginlimit.FirstOf(ginlimit.Header("X-API-Key"), ginlimit.ClientIP()))
	byUser := ginlimit.New(limiter, func(c *gin.Context) (string, error) {
		if user := c.GetString("user"); user != "" { // set by your authentication, which runs before
			return "user:" + user, nil
		}
		return "", nil // no user: 401
	})

	for path, m := range map[string]*ginlimit.Middleware{
		"/ip": byIP, "/key": byAPIKey, "/either": byEither, "/user": byUser,
	} {
		r.GET(path, m.Limit(core.PerMinute("any", 5)), answer)
	}
	fmt.Println(get(r, "/ip").Code, get(r, "/key").Code, get(r, "/either").Code, get(r, "/user").Code)
	// Output: 200 401 200 401
}

func ExampleOnDenied() {
	r := gin.New()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.OnDenied(func(c *gin.Context, d core.Decision) {
		c.String(http.StatusTooManyRequests, "Slow down: %v to go.\n", d.RetryAfter.Round(time.Second))
	}))

	r.GET("/once", byIP.Limit(core.PerMinute("once", 1)), answer)
	get(r, "/once")
	fmt.Print(get(r, "/once").Body)
	// Output: Slow down: 1m0s to go.
}

func ExampleTrustedProxies() {
	byClient := ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies("10.0.0.0/8", "fd00::/8")))

	r := gin.New()
	r.GET("/proxied", byClient.Limit(core.PerMinute("proxied", 1)), answer)
	for _, forwarded := range []string{"203.0.113.7", "203.0.113.8", "1.2.3.4, 203.0.113.7"} {
		request := httptest.NewRequest("GET", "/proxied", nil)
		request.RemoteAddr = "10.0.0.1:80"
		request.Header.Set("X-Forwarded-For", forwarded)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 200
	// 429
}

func ExampleRoutes() {
	r := gin.New()
	routes := ginlimit.Routes{
		"GET /search":  {core.PerSecond("search", 5), core.PerHour("search-hourly", 500)},
		"POST /login":  {core.PerMinute("login", 5)},
		"GET /healthz": nil,                             // without limits, on purpose
		"NoRoute":      {core.PerMinute("unknown", 30)}, // requests that match no route
	}
	ginlimit.Use(r, byIP.LimitRoutes(routes)) // before the routes
	r.GET("/search", search)
	r.POST("/signin", answer)
	r.GET("/healthz", answer)
	if err := routes.CheckAll(r); err != nil {
		fmt.Println(err)
	}
	// Output:
	// exactlimit: Routes does not match the registered routes:
	// 	POST /login: has limits, but no such route is registered
	// 	POST /signin: has no entry: write its limits, or nil if it needs none
}

// send sends a request, and retries it at the time that each 429 response names.
func send(client *http.Client, r *http.Request) (*http.Response, error) {
	for {
		response, err := client.Do(r)
		if err != nil || response.StatusCode != http.StatusTooManyRequests {
			return response, err
		}
		seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
		if err != nil {
			return response, nil // without a time
		}
		response.Body.Close()
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if r.GetBody != nil { // the body was consumed
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// A client that waits for Retry-After is never denied twice.
func Example_client() {
	r := gin.New()
	denied := 0
	once := ginlimit.New(limiter, ginlimit.ClientIP(),
		ginlimit.OnDenied(func(*gin.Context, core.Decision) { denied++ }))
	r.POST("/mail", once.Limit(core.PerSecond("mail", 1)), answer)
	server := httptest.NewServer(r)
	defer server.Close()

	for range 2 {
		request, err := http.NewRequest("POST", server.URL+"/mail", strings.NewReader("hello"))
		if err != nil {
			log.Fatal(err)
		}
		response, err := send(server.Client(), request)
		if err != nil {
			log.Fatal(err)
		}
		response.Body.Close()
		fmt.Println(response.StatusCode)
	}
	fmt.Println(denied, "denied")
	// Output:
	// 200
	// 200
	// 1 denied
}

// A page on another origin can read the fields, and its preflights are not counted.
func Example_cors() {
	r := gin.New()
	r.Use(cors.New(cors.Config{
		AllowOrigins:  []string{"https://app.example.com"},
		AllowHeaders:  []string{"X-API-Key"},
		ExposeHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After"},
	})) // before the limiter, so that it does not count preflights
	r.Use(byIP.Limit(core.PerMinute("page", 30)))
	r.GET("/search", search)

	for _, method := range []string{"OPTIONS", "GET"} {
		request := httptest.NewRequest(method, "/search", nil)
		request.Header.Set("Origin", "https://app.example.com")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		fmt.Println(w.Code, w.Header().Values("RateLimit"), w.Header().Values("Access-Control-Expose-Headers"))
	}
	// Output:
	// 204 [] []
	// 200 ["page";r=29] [Ratelimit,Ratelimit-Policy,Retry-After]
}

func ExampleCost() {
	reports := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Cost(func(c *gin.Context) int {
		if c.Query("format") == "pdf" {
			return 10
		}
		return 1
	}))
	r := gin.New()
	r.GET("/reports", reports.Limit(core.PerHour("reports", 12)), answer)
	for _, target := range []string{"/reports?format=pdf", "/reports?format=pdf", "/reports"} {
		fmt.Println(get(r, target).Code)
	}
	// Output:
	// 200
	// 429
	// 200
}

// Uploads cost a unit, and one for each kilobyte.
func ExampleCost_uploads() {
	const largest = 10 << 20 // bytes: the handler reads no more, by http.MaxBytesReader
	uploads := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Cost(func(c *gin.Context) int {
		size := c.Request.ContentLength // -1 if it is not known
		if size < 0 || size > largest {
			size = largest
		}
		return 1 + int(size>>10) // a unit, and one for each kilobyte
	}))
	r := gin.New()
	r.POST("/files", uploads.Limit(core.PerHour("kilobytes", 30_000)), func(c *gin.Context) {
		file, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, largest))
		if err != nil {
			c.Status(http.StatusRequestEntityTooLarge)
			return
		}
		c.String(http.StatusOK, "%d bytes", len(file))
	})
	for _, body := range []io.Reader{
		strings.NewReader("short"),
		strings.NewReader(strings.Repeat("x", largest+1)), // costs no more than it could take
		io.MultiReader(strings.NewReader("of unknown length")),
		strings.NewReader(strings.Repeat("x", largest)), // denied
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("POST", "/files", body))
		fmt.Println(w.Code, w.Header()["Ratelimit"])
	}
	// Output:
	// 200 ["kilobytes";r=29999]
	// 413 ["kilobytes";r=19758]
	// 200 ["kilobytes";r=9517;t=3600]
	// 429 ["kilobytes";r=9517;t=3600]
}

func ExampleCountOnly() {
	failures := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	r := gin.New()
	r.GET("/login", failures.Limit(core.PerMinute("failed-logins", 2)), func(c *gin.Context) {
		if c.Query("password") != "sesame" {
			c.Status(http.StatusUnauthorized)
		}
	})
	for _, password := range []string{"sesame", "sesame", "sesame", "guess", "guess", "guess"} {
		fmt.Println(get(r, "/login?password="+password).Code)
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
	login := func(c *gin.Context) {
		if c.Query("password") != "sesame" {
			c.Status(http.StatusUnauthorized)
		}
	}
	failures := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	r := gin.New()
	guard := core.Limit{Name: "guesses", Max: 5, Window: time.Minute, Ban: time.Hour}
	r.POST("/login", failures.Limit(guard), login)
	for _, password := range []string{"a", "b", "c", "d", "e", "sesame"} { // the last one is correct, but too late
		fmt.Println(post(r, "/login?password="+password))
	}
	// Output:
	// 401
	// 401
	// 401
	// 401
	// 401
	// 429, come back in 3600 seconds
}

// An operator lifts the ban of an address.
func ExampleCountOnly_unban() {
	login := func(c *gin.Context) { c.Status(http.StatusUnauthorized) }
	failures := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	r := gin.New()
	guard := core.Limit{Name: "guesses-to-forgive", Max: 1, Window: time.Minute, Ban: time.Hour}
	r.POST("/login", failures.Limit(guard), login)
	attempt := func() int {
		request := httptest.NewRequest("POST", "/login", nil)
		request.RemoteAddr = "203.0.113.7:1234"
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		return w.Code
	}
	fmt.Println(attempt(), attempt())

	ctx := context.Background()
	err := limiter.Reset(ctx, "ip:203.0.113.7", guard)
	fmt.Println(err, attempt())
	// Output:
	// 401 429
	// <nil> 401
}

// Logins of one address that come at the same moment begin no ban, unless Max of them have failed: the guard sees one
// at a time, so all others have been given back, or have failed, when it is asked.
func ExampleCountOnly_oneByOne() {
	login := func(c *gin.Context) { c.Status(http.StatusOK) }
	failures := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}))
	r := gin.New()
	guard := core.Limit{Name: "guesses-one-by-one", Max: 5, Window: time.Minute, Ban: time.Hour}
	oneByOne := ginlimit.New(limiter, ginlimit.ClientIP()).Limit(core.InFlight("logins", 1, 30*time.Second))
	r.POST("/login", oneByOne, failures.Limit(guard), login)
	fmt.Println(post(r, "/login"))
	// Output: 200
}

// Where any request may carry a password, those that carry none are no guesses.
func ExampleExempt_basicAuth() {
	guesses := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(func(status int) bool {
		return status == http.StatusUnauthorized
	}), ginlimit.Exempt(func(c *gin.Context) bool {
		_, _, password := c.Request.BasicAuth()
		return !password
	}))
	r := gin.New()
	r.Use(guesses.Limit(core.PerMinute("basic-guesses", 2)), gin.BasicAuth(gin.Accounts{"ann": "sesame"}))
	r.GET("/inbox", answer)
	for _, password := range []string{"", "", "", "a", "sesame", "b", "c", ""} {
		request := httptest.NewRequest("GET", "/inbox", nil)
		if password != "" {
			request.SetBasicAuth("ann", password)
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, request)
		fmt.Print(w.Code, " ")
	}
	// Output: 401 401 401 401 200 401 429 401
}

// The RateLimit-Policy field names the unit of a limit, unless it counts requests.
func ExampleCost_unit() {
	completions := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Cost(func(c *gin.Context) int { return 600 }))
	r := gin.New()
	tokens := core.Limit{Name: "tokens", Max: 1000, Window: time.Minute, Unit: "tokens"}
	r.GET("/completions", completions.Limit(tokens), answer)
	fmt.Println(get(r, "/completions").Header().Get("RateLimit-Policy"))
	// Output: "tokens";q=1000;w=60;qu="tokens"
}

// Staff are not limited. An authentication before the limiter sets "staff".
func ExampleExempt() {
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Exempt(func(c *gin.Context) bool {
		return c.GetBool("staff") // set by your authentication
	}))
	r := gin.New()
	r.GET("/prices", func(c *gin.Context) { c.Set("staff", c.Query("token") == "sesame") },
		byIP.Limit(core.PerMinute("prices", 1)), answer)
	for _, token := range []string{"", "", "sesame"} {
		w := get(r, "/prices?token="+token)
		fmt.Println(w.Code, w.Header()["Ratelimit"])
	}
	// Output:
	// 200 ["prices";r=0;t=60]
	// 429 ["prices";r=0;t=60]
	// 200 []
}

func ExampleDryRun() {
	trial := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.DryRun())
	r := gin.New()
	r.GET("/trial", trial.Limit(core.PerMinute("trial", 1)), answer)
	for range 2 {
		w := get(r, "/trial")
		fmt.Println(w.Code, w.Header()["Ratelimit"])
	}
	// Output:
	// 200 ["trial";r=0;t=60]
	// 200 ["trial";r=0;t=60]
}
