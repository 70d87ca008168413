package ginlimit_test

import (
	"context"
	"fmt"
	"io"
	"iter"
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

// Of the reports of one client, three are made at a time, and a hundred in a day.
func ExampleMiddleware_Limit_inFlight() {
	r := gin.New()
	r.GET("/reports", byIP.Limit(core.InFlight("reports", 3, 30*time.Second), core.PerDay("reports-daily", 100)), report)

	w := get(r, "/reports")
	fmt.Println(w.Header().Get("RateLimit-Policy"))
	fmt.Println(w.Header().Get("RateLimit"))
	// Output:
	// "reports";q=3;qu="concurrent-requests", "reports-daily";q=100;w=86400
	// "reports";r=2, "reports-daily";r=99
}

// Webhooks are counted by the endpoint that receives them, since a sender's addresses are shared by its customers.
func ExamplePathParam_webhooks() {
	r := gin.New()
	byHook := ginlimit.New(limiter, ginlimit.PathParam("hook"))
	r.POST("/hooks/:hook", byHook.Limit(core.PerMinute("hooks", 60)), answer)

	fmt.Println(post(r, "/hooks/ann"))
	// Output: 200
}

// newService is what TestExample tests.
func newService(limiter *core.Limiter) http.Handler {
	r := gin.New()
	r.GET("/search", ginlimit.New(limiter, ginlimit.ClientIP()).Limit(core.PerMinute("search", 2)), answer)
	return r
}

// A test of a service with limits, in which a minute passes in no time.
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

// An answer to denied uploads that lets a proxy finish them.
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

	for path, m := range map[string]*ginlimit.Middleware{"/ip": byIP, "/key": byAPIKey, "/either": byEither, "/user": byUser} {
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
	// exactlimit: the table of limits does not fit the routes:
	// 	POST /login: there are limits for it, and no such route
	// 	POST /signin: there is no entry for it: write its limits, or nil if it needs none
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
			return response, nil // it does not say when
		}
		response.Body.Close()
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if r.GetBody != nil { // the body that was sent is used up
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// A client that obeys is never denied twice.
func Example_client() {
	r := gin.New()
	denied := 0
	once := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.OnDenied(func(*gin.Context, core.Decision) { denied++ }))
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

// A page on another origin may read the fields, and its preflights are not counted.
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

// The tokens that a language model may use are reserved, and those that it has used are charged, also those of a stream
// that its client has left.
func ExampleCostAfter() {
	r := gin.New()
	const most = 1000 // tokens of a completion: so many are reserved, and those that it has used are charged
	byKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"),
		ginlimit.Cost(func(*gin.Context) int { return most }),
		ginlimit.CostAfter(func(c *gin.Context) int { return c.GetInt("used") }))
	r.POST("/chat", byKey.Limit(core.PerMinute("tokens", 1500)), func(c *gin.Context) {
		prompt, _ := c.GetRawData()
		for chunk := range complete(c.Request.Context(), string(prompt), most) {
			c.Set("used", chunk.used) // as it goes, since the client may leave
			c.Writer.WriteString(chunk.text)
			c.Writer.Flush()
		}
	})
	for _, leaves := range []bool{false, true, false} {
		w := chat(r, leaves)
		fmt.Println(w.Code, w.Header()["Ratelimit"], len(w.Body.String())/len("Because. "))
	}
	// Output:
	// 200 ["tokens";r=500;t=60] 5
	// 200 ["tokens";r=220;t=60] 1
	// 200 ["tokens";r=100;t=60] 5
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

// A guard against guessed passwords, for which others write rules of fail2ban. Only failures count, and a client that
// makes more of them than Max in a Window is denied for all of Ban, whatever it tries meanwhile.
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
	for _, password := range []string{"a", "b", "c", "d", "e", "sesame"} { // the last one is right, and too late
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

// Logins of one address that come at the same moment begin no ban, unless Max of them have failed: the guard sees one at a
// time, so all others have been given back, or have failed, when it is asked.
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

// The RateLimit-Policy field says what a limit counts, unless that is requests.
func ExampleCost_unit() {
	completions := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Cost(func(c *gin.Context) int { return 600 }))
	r := gin.New()
	tokens := core.Limit{Name: "tokens", Max: 1000, Window: time.Minute, Unit: "tokens"}
	r.GET("/completions", completions.Limit(tokens), answer)
	fmt.Println(get(r, "/completions").Header().Get("RateLimit-Policy"))
	// Output: "tokens";q=1000;w=60;qu="tokens"
}

// Staff, as an authentication in front has found out, are not limited.
func ExampleExempt() {
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.Exempt(func(c *gin.Context) bool {
		return c.GetBool("staff") // as your authentication says
	}))
	r := gin.New()
	r.GET("/prices", func(c *gin.Context) { c.Set("staff", c.Query("token") == "sesame") }, byIP.Limit(core.PerMinute("prices", 1)), answer)
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
