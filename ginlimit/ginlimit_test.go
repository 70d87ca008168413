package ginlimit_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

func init() { gin.SetMode(gin.TestMode) }

func ok(c *gin.Context) { adaptertest.OK(c.Writer) }

func app(limiter *core.Limiter) http.Handler {
	by := func(key ginlimit.KeyFunc, opts ...ginlimit.Option) *ginlimit.Middleware {
		return ginlimit.New(limiter, key, opts...)
	}
	byIP := by(ginlimit.ClientIP())
	byHeader := by(ginlimit.Header("X-API-Key"))
	byFirst := by(ginlimit.FirstOf(ginlimit.Header("X-API-Key"), ginlimit.ClientIP()))
	byOwn := by(func(c *gin.Context) (string, error) { return adaptertest.OwnKey(c.Query("user")) })
	custom := by(ginlimit.ClientIP(), ginlimit.OnDenied(func(c *gin.Context, d core.Decision) {
		adaptertest.Denied(c.Writer, d)
	}))

	silent := by(ginlimit.ClientIP(), ginlimit.OnDenied(func(*gin.Context, core.Decision) {}))
	byProxied := by(ginlimit.ClientIP(ginlimit.TrustedProxies("10.0.0.0/8", "unix")))
	byFramework := by(ginlimit.FrameworkClientIP())

	// render answers errors after the handlers have run, whether or not they have answered, as gotify's middleware
	// does.
	render := func(c *gin.Context) {
		c.Next()
		for _, err := range c.Errors {
			adaptertest.Render(c.Writer, err.Err)
		}
	}
	forget := func(c *gin.Context) {
		c.Next()
		c.Errors = nil
	}

	r := gin.New()
	r.Use(render)
	ginlimit.Use(r, byIP.LimitRoutes(ginlimit.Routes{
		"GET /table/:id": {adaptertest.One},
		"GET /free":      nil,
		"NoRoute":        {adaptertest.Unknown},
	}))
	r.Group("/table", byIP.Limit(adaptertest.Outer)).GET("/:id", byIP.Limit(adaptertest.Inner), ok)
	r.GET("/free", ok)
	r.GET("/one", byIP.Limit(adaptertest.One), ok)
	r.GET("/several", byIP.Limit(adaptertest.Burst, adaptertest.Sustained), ok)
	r.Group("/stacked", byIP.Limit(adaptertest.Outer)).GET("", byIP.Limit(adaptertest.Inner), ok)
	r.HEAD("/one", byIP.Limit(adaptertest.One), ok)
	r.OPTIONS("/one", byIP.Limit(adaptertest.One), ok)
	deep := r.Group("/deep", byIP.Limit(adaptertest.Outer)).Group("", byIP.Limit(adaptertest.Burst, adaptertest.Sustained))
	deep.GET("", byIP.Limit(adaptertest.Inner), ok)
	r.Group("/twice", byIP.Limit(adaptertest.One)).GET("", byIP.Limit(adaptertest.One), ok)
	r.Group("/keys", byHeader.Limit(adaptertest.Inner)).GET("", byIP.Limit(adaptertest.One), ok)
	legacy := by(ginlimit.ClientIP(), ginlimit.LegacyFields())
	r.Group("/legacy", legacy.Limit(adaptertest.Outer)).GET("", legacy.Limit(adaptertest.Burst, adaptertest.Inner), ok)
	r.GET("/secret", by(ginlimit.ClientIP(), ginlimit.NoFields()).Limit(adaptertest.One), ok)
	r.GET("/text", by(ginlimit.Header("X-API-Key"), ginlimit.PlainText()).Limit(adaptertest.One), ok)
	r.GET("/begun", func(c *gin.Context) { adaptertest.Begin(c.Writer) }, byIP.Limit(adaptertest.One), ok)
	r.GET("/panic", gin.CustomRecoveryWithWriter(nil, func(c *gin.Context, _ any) { adaptertest.Recovered(c.Writer) }),
		byIP.Limit(adaptertest.One), func(c *gin.Context) { panic("downstream") })
	r.GET("/upgrade", byIP.Limit(adaptertest.One), func(c *gin.Context) { adaptertest.Upgrade(c.Writer) })
	r.GET("/quoted", byIP.Limit(adaptertest.Quoted), ok)
	r.GET("/header", byHeader.Limit(adaptertest.One), ok)
	r.GET("/first", byFirst.Limit(adaptertest.One), ok)
	for path, key := range map[string]ginlimit.KeyFunc{
		"/bearer":    ginlimit.BearerToken(),
		"/cookie":    ginlimit.Cookie("session"),
		"/query":     ginlimit.Query("api_key", ginlimit.HashKey(adaptertest.Secret)),
		"/path/:id":  ginlimit.PathParam("id"),
		"/path":      ginlimit.PathParam("id"),
		"/route/:id": ginlimit.Route(),
		"/join/:id":  ginlimit.Join(ginlimit.PathParam("id"), ginlimit.ClientIP()),
		"/global":    ginlimit.Global(),
	} {
		r.GET(path, by(key).Limit(adaptertest.One), ok)
	}
	r.GET("/own", byOwn.Limit(adaptertest.One), ok)
	r.GET("/plan", byIP.LimitFunc(func(c *gin.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.GetHeader("X-Plan"))
	}), ok)
	r.GET("/denied", custom.Limit(adaptertest.One), ok)
	r.GET("/proxied", byProxied.Limit(adaptertest.One), ok)
	r.GET("/framework", byFramework.Limit(adaptertest.One), ok)
	r.GET("/silent", silent.Limit(adaptertest.One), ok)
	number := func(name string) func(*gin.Context) int {
		return func(c *gin.Context) int { return adaptertest.Number(c.Query(name)) }
	}
	r.GET("/cost", by(ginlimit.ClientIP(), ginlimit.Cost(number("cost"))).Limit(adaptertest.Outer), ok)
	r.GET("/failures", by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One),
		func(c *gin.Context) { c.Status(number("status")(c)) })
	r.GET("/guard", by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Guard),
		func(c *gin.Context) { c.Status(number("status")(c)) })
	r.GET("/vault", by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Vault),
		func(c *gin.Context) { adaptertest.Attempt(c.Writer, number("status")(c)) })
	r.Group("/tokens", byIP.Limit(adaptertest.Outer)).
		GET("", by(ginlimit.ClientIP(), ginlimit.Cost(number("cost"))).Limit(adaptertest.Tokens), ok)
	r.GET("/logins", by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Logins),
		func(c *gin.Context) { adaptertest.Attempt(c.Writer, number("status")(c)) })
	exempt := ginlimit.Exempt(func(c *gin.Context) bool { return adaptertest.Staff(c.GetHeader("X-Staff")) })
	byExempt := by(ginlimit.Header("X-API-Key"), exempt)
	r.GET("/exempt", byExempt.Limit(adaptertest.One), ok)
	r.GET("/exempt/plan", byExempt.LimitFunc(func(c *gin.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.GetHeader("X-Plan"))
	}), ok)
	r.GET("/exempt/table", byExempt.LimitRoutes(ginlimit.Routes{"GET /exempt/table": {adaptertest.One}}), ok)
	r.GET("/exempt/failures", by(ginlimit.Header("X-API-Key"), exempt, ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One),
		func(c *gin.Context) { c.Status(http.StatusNotFound) })
	r.GET("/dry", by(ginlimit.Header("X-API-Key"), ginlimit.DryRun(), ginlimit.Cost(number("cost"))).Limit(adaptertest.One), ok)
	r.GET("/answered", byIP.LimitFunc(func(c *gin.Context) ([]core.Limit, error) {
		adaptertest.Refuse(c.Writer)
		return nil, errors.New("the plan is unknown")
	}), ok)
	r.NoRoute(func(c *gin.Context) { adaptertest.NotFound(c.Writer) })
	handle := func(c *gin.Context) { adaptertest.Handle(c.Writer, c.Request) }
	failed := by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed))
	r.GET("/given", failed.Limit(adaptertest.Inner), handle)
	succeeded := by(ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Succeeded))
	r.GET("/actions", succeeded.Limit(adaptertest.Inner), handle)
	fail := func(c *gin.Context) { _ = c.Error(adaptertest.Status(number("status")(c))) }
	r.GET("/mapped", failed.Limit(adaptertest.One), fail)
	r.GET("/mapping", forget, failed.Limit(adaptertest.One), render, fail)
	settled := func(opts ...ginlimit.Option) *ginlimit.Middleware {
		opts = append(opts, ginlimit.Cost(number("cost")), ginlimit.CostAfter(number("actual")))
		return by(ginlimit.ClientIP(), opts...)
	}
	tried := settled(ginlimit.CountOnly(adaptertest.Failed))
	r.GET("/settled", settled().Limit(adaptertest.Outer), ok)
	r.GET("/spent", settled().Limit(adaptertest.Spent), handle)
	r.GET("/tried", tried.Limit(adaptertest.Spent), handle)
	r.GET("/fails", tried.Limit(adaptertest.Spent), fail)
	r.GET("/flight", byIP.Limit(adaptertest.Flight), handle)
	r.GET("/flight/several", byIP.Limit(adaptertest.Flight, adaptertest.Inner), handle)
	r.GET("/flight/failures", failed.Limit(adaptertest.Flight, adaptertest.Inner), handle)
	r.GET("/flight/mapped", failed.Limit(adaptertest.Inner, adaptertest.Flight), fail)
	r.GET("/flight/dry", by(ginlimit.ClientIP(), ginlimit.DryRun()).Limit(adaptertest.Flight), handle)
	return r
}

func TestConformance(t *testing.T) { adaptertest.Run(t, app) }

func TestMistakesPanicWhereTheyAreWritten(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	for name, mistake := range map[string]func(){
		"no limiter":     func() { ginlimit.New(nil, ginlimit.ClientIP()) },
		"no key":         func() { ginlimit.New(limiter, nil) },
		"no limit":       func() { byIP.Limit() },
		"Max 0":          func() { byIP.Limit(core.PerMinute("login", 0)) },
		"a short lease":  func() { byIP.Limit(core.InFlight("reports", 3, 999*time.Millisecond)) },
		"no LimitFunc":   func() { byIP.LimitFunc(nil) },
		"no header name": func() { ginlimit.Header("") },
		"two words":      func() { ginlimit.Header("API Key") },
		"no keys":        func() { ginlimit.FirstOf() },
		"all proxies":    func() { ginlimit.ClientIP(ginlimit.TrustedProxies("0.0.0.0/0")) },
		"no proxies":     func() { ginlimit.ClientIP(ginlimit.ProxyHeader("X-Real-IP")) },
		"short secret":   func() { ginlimit.HashKey([]byte("hunter2")) },
		"a path":         func() { ginlimit.PathParam("/users/:id") },
		"nothing joined": func() { ginlimit.Join() },
		"no route":       func() { byIP.LimitRoutes(ginlimit.Routes{"login": {adaptertest.One}}) },
		"negative ban":   func() { byIP.Limit(core.Limit{Name: "login", Max: 5, Window: time.Minute, Ban: -time.Hour}) },
		"nil key":        func() { ginlimit.FirstOf(ginlimit.ClientIP(), nil) },
	} {
		assert.Panics(t, mistake, name)
	}
	assert.PanicsWithError(t, `exactlimit: invalid: limit "login": Max is 0, it must be at least 1`,
		func() { byIP.Limit(core.PerMinute("login", 0)) })
}

// Gin's own resolution counts once it has been told whom to trust, with a list or with none.
func TestFrameworkClientIP(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	for _, row := range []struct {
		name    string
		trusted []string
		status  int // of the second request from another address than the first, as the header has it
	}{
		{"nobody", nil, http.StatusTooManyRequests},
		{"somebody else", []string{"10.0.0.0/8"}, http.StatusTooManyRequests},
		{"the peer", []string{"192.0.2.1"}, http.StatusOK},
	} {
		r := gin.New()
		require.NoError(t, r.SetTrustedProxies(row.trusted))
		r.GET("/", ginlimit.New(limiter, ginlimit.FrameworkClientIP()).Limit(core.PerMinute(row.name, 1)), ok)
		assert.Equal(t, http.StatusOK, adaptertest.Get(r, "/", "X-Forwarded-For: 203.0.113.7").StatusCode, row.name)
		assert.Equal(t, row.status, adaptertest.Get(r, "/", "X-Forwarded-For: 203.0.113.8").StatusCode, row.name)
		assert.Equal(t, http.StatusTooManyRequests, adaptertest.Get(r, "/", "X-Forwarded-For: ::ffff:203.0.113.7").StatusCode, row.name)
	}
}

// One key function may serve several engines, and each has to be told whom to trust, over IPv6 too.
func TestFrameworkClientIPAsksEachEngine(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := ginlimit.New(limiter, ginlimit.FrameworkClientIP()).Limit(core.PerMinute("shared", 100))
	for _, row := range []struct {
		name    string
		trusted []string
		status  int
	}{
		{"nobody", nil, http.StatusOK},
		{"untold", []string{"as gin.New has it"}, http.StatusInternalServerError},
		{"proxies", []string{"10.0.0.0/8", "fd00::/8", "2400:cb00::/32"}, http.StatusOK},
		{"all of IPv4", []string{"0.0.0.0/0"}, http.StatusInternalServerError},
		{"all of IPv6", []string{"::/0"}, http.StatusInternalServerError},
		{"all of IPv6 that is assigned", []string{"10.0.0.0/8", "2000::/3"}, http.StatusInternalServerError},
		{"all of IPv4, mapped", []string{"::ffff:0.0.0.0/96"}, http.StatusInternalServerError},
		{"nobody again", nil, http.StatusOK},
	} {
		r := gin.New()
		if row.name != "untold" {
			require.NoError(t, r.SetTrustedProxies(row.trusted))
		}
		r.GET("/", limit, func(c *gin.Context) {
			assert.Equal(t, "192.0.2.1:1234", c.Request.RemoteAddr, "the request is the client's again")
			ok(c)
		})
		for range 2 {
			assert.Equal(t, row.status, adaptertest.Get(r, "/").StatusCode, row.name)
		}
	}
}

// Paths that lead nowhere are together one client, and not that of a route.
func TestUnmatchedPathsAreOneClient(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byRoute := ginlimit.New(limiter, ginlimit.Route())
	r := gin.New()
	r.Use(byRoute.Limit(adaptertest.One))
	r.GET("/users/:id", ok)
	r.HandleMethodNotAllowed = true
	for _, row := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/a", http.StatusNotFound},
		{"POST", "/users/1", http.StatusMethodNotAllowed},
		{"GET", "/b", http.StatusTooManyRequests},
		{"BREW", "/users/1", http.StatusTooManyRequests},
		{"GET", "//users/1", http.StatusTooManyRequests},
		{"GET", "/users/1", http.StatusOK},
		{"GET", "/users/2", http.StatusOK},
		{"GET", "/users/%33?x=1", http.StatusTooManyRequests},
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}

// Gin leaves routes without the middleware that comes after them.
func TestUseAfterRoutes(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	limit := ginlimit.New(limiter, ginlimit.ClientIP()).Limit(adaptertest.One)
	ginlimit.Use(r, limit)
	r.GET("/login", ok)
	assert.PanicsWithValue(t, "exactlimit: Use on an engine that has routes, such as GET /login: Gin would leave them without limits, so call it before",
		func() { ginlimit.Use(r, limit) })
}

// A table of limits that does not fit the routes is told at start, and so is one that says nothing of the other
// requests.
func TestRoutesThatDoNotFit(t *testing.T) {
	r := gin.New()
	r.GET("/search", ok)
	r.Group("/users").POST("/:id", ok)
	r.NoRoute(ok)
	fits := ginlimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:id": nil, "NoRoute": {adaptertest.One}}
	assert.NoError(t, fits.Check(r))
	assert.NoError(t, fits.CheckAll(r))
	misses := ginlimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(r), "exactlimit: the table of limits does not fit the routes:\n"+
		"\tPOST /users/:user: there are limits for it, and no such route")
	assert.EqualError(t, misses.CheckAll(r), "exactlimit: the table of limits does not fit the routes:\n"+
		"\tNoRoute: there is no entry for requests that match no route: write their limits, or nil if they need none\n"+
		"\tPOST /users/:id: there is no entry for it: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:user: there are limits for it, and no such route")
}

// NoRoute stands for all requests that match no route, and for no others.
func TestLimitsOfRequestsWithoutRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	r.HandleMethodNotAllowed = true
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	ginlimit.Use(r, byIP.LimitRoutes(ginlimit.Routes{
		"GET /search": {adaptertest.Outer},
		"NoRoute":     {adaptertest.Inner},
	}))
	r.GET("/search", ok)
	r.Group("/api", func(*gin.Context) {}).GET("/users/:id", ok)
	r.NoRoute(func(c *gin.Context) { c.Status(http.StatusNotFound) })
	for _, row := range []struct {
		method, target string
		limited        bool
	}{
		{"GET", "/search", true},
		{"GET", "/api/users/1", false},
		{"GET", "/nowhere", true},
		{"BREW", "/search", true},
		{"POST", "/api/users/1", true},
		{"GET", "/api", true},
		{"GET", "/api/nowhere", true},
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.limited, w.Header().Get("Ratelimit") != "", row)
	}
}

// holding is a writer of middleware's that holds answers back until the handlers have run, and forgetful one that says
// what status it was given last, as gin-contrib's for gzip does.
type (
	holding struct {
		gin.ResponseWriter
		first  bool // of several statuses it keeps the first, and otherwise the last
		status int
		body   []byte
	}
	forgetful struct {
		gin.ResponseWriter
		status int
	}
)

func (h *holding) WriteHeaderNow() {}
func (h *holding) WriteHeader(status int) {
	if h.status == 0 || !h.first {
		h.status = status
	}
}
func (h *holding) Write(p []byte) (int, error) {
	h.body = append(h.body, p...)
	return len(p), nil
}

func (f *forgetful) Status() int { return f.status }
func (f *forgetful) WriteHeader(status int) {
	f.status = status
	f.ResponseWriter.WriteHeader(status)
}

// What counts is what the client sees, whatever middleware stands in front of the limiter or behind it, and whatever a handler
// does after it has answered.
func TestCountOnlyAmongMiddleware(t *testing.T) {
	writers := map[string]gin.HandlerFunc{
		"nothing": func(*gin.Context) {},
		"holding": func(c *gin.Context) {
			writer := c.Writer
			held := &holding{ResponseWriter: writer}
			c.Writer = held
			c.Next()
			c.Writer = writer
			writer.WriteHeader(held.status)
			_, _ = writer.Write(held.body)
		},
		"holding the first": func(c *gin.Context) { // as gin-contrib's timeout does
			writer := c.Writer
			held := &holding{ResponseWriter: writer, first: true}
			c.Writer = held
			c.Next()
			c.Writer = writer
			writer.WriteHeader(held.status)
			_, _ = writer.Write(held.body)
		},
		"forgetful": func(c *gin.Context) { c.Writer = &forgetful{c.Writer, http.StatusOK} },
	}
	answers := map[string]gin.HandlerFunc{
		"/success": ok,
		"/nothing": func(*gin.Context) {},
		"/failure": func(c *gin.Context) { c.String(http.StatusUnauthorized, "who?") },
		"/bare":    func(c *gin.Context) { c.Status(http.StatusUnauthorized) },
		"/abort":   func(c *gin.Context) { c.AbortWithStatus(http.StatusUnauthorized) },
		"/goes-on": func(c *gin.Context) { // as where a return has been forgotten
			c.AbortWithStatusJSON(http.StatusUnauthorized, "who?")
			c.JSON(http.StatusOK, "welcome")
		},
		"/fails-late": func(c *gin.Context) {
			c.JSON(http.StatusOK, "welcome")
			c.JSON(http.StatusUnauthorized, "who?")
		},
	}
	for name, writer := range writers {
		for path, answer := range answers {
			for _, inFront := range []bool{true, false} {
				limiter, err := core.NewInProcess()
				require.NoError(t, err)
				defer limiter.Close()
				limit := core.PerHour("failures", 9)
				failed := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(limit)
				r := gin.New()
				if inFront {
					r.Use(writer, failed)
				} else {
					r.Use(failed, writer)
				}
				r.GET(path, answer)
				status := adaptertest.Get(r, path).StatusCode
				twice := path == "/goes-on" || path == "/fails-late"
				unknown := twice && inFront && strings.HasPrefix(name, "holding") // only the writer knows
				d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", limit)
				require.NoError(t, err)
				assert.Equal(t, unknown || adaptertest.Failed(status), d.Remaining < limit.Max,
					"%s, %d with %s in front: %v", path, status, name, inFront)
			}
		}
	}
}

// Engine.HandleContext goes on with Gin's own writer, whatever middleware has put in front of it.
func TestCountOnlyBehindHandleContext(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	failed := ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failures", 1))
	for path, status := range map[string]int{"/failure": 401, "/success": 200} {
		r.GET(path, func(c *gin.Context) { c.Status(status) })
		r.GET("/old"+path, failed, func(c *gin.Context) {
			c.Request.URL.Path = path
			r.HandleContext(c)
		})
	}
	for _, row := range []struct {
		path   string
		status int
	}{{"/old/success", 200}, {"/old/success", 200}, {"/old/failure", 401}, {"/old/failure", 429}} {
		assert.Equal(t, row.status, adaptertest.Get(r, row.path).StatusCode, row.path)
	}
}

// Behind CountOnly, handlers can still control the connection.
func TestCountOnlyPassesControls(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	r.Use(ginlimit.New(limiter, ginlimit.ClientIP(), ginlimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failures", 9)))
	r.GET("/", func(c *gin.Context) {
		assert.NoError(t, http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(time.Hour)))
	})
	server := httptest.NewServer(r)
	defer server.Close()
	response, err := http.Get(server.URL)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
}
