package echolimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

func ok(c *echo.Context) error {
	adaptertest.OK(c.Response())
	return nil
}

func app(limiter *core.Limiter) http.Handler {
	by := func(key echolimit.KeyFunc, opts ...echolimit.Option) *echolimit.Middleware {
		return echolimit.New(limiter, key, opts...)
	}
	byIP := by(echolimit.ClientIP())
	byHeader := by(echolimit.Header("X-API-Key"))
	byFirst := by(echolimit.FirstOf(echolimit.Header("X-API-Key"), echolimit.ClientIP()))
	byOwn := by(func(c *echo.Context) (string, error) { return adaptertest.OwnKey(c.QueryParam("user")) })
	custom := by(echolimit.ClientIP(), echolimit.OnDenied(func(c *echo.Context, d core.Decision) error {
		adaptertest.Denied(c.Response(), d)
		return nil
	}))

	silent := by(echolimit.ClientIP(), echolimit.OnDenied(func(*echo.Context, core.Decision) error { return nil }))
	byProxied := by(echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8", "unix")))
	byFramework := by(echolimit.FrameworkClientIP())

	// render answers errors after the handlers have run, whether or not they have answered.
	render := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			if err := next(c); err != nil {
				adaptertest.Render(c.Response(), err)
			}
			return nil
		}
	}

	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	e.IPExtractor = echo.LegacyIPExtractor() // which believes anyone, as Echo v4 does
	e.Use(render)
	e.Use(byIP.LimitRoutes(echolimit.Routes{
		"GET /table/:id": {adaptertest.One},
		"GET /free":      nil,
		"RouteNotFound":  {adaptertest.Unknown},
	}))
	e.Group("/table", byIP.Limit(adaptertest.Outer)).GET("/:id", ok, byIP.Limit(adaptertest.Inner))
	e.GET("/free", ok)
	e.GET("/one", ok, byIP.Limit(adaptertest.One))
	e.GET("/several", ok, byIP.Limit(adaptertest.Burst, adaptertest.Sustained))
	e.Group("/stacked", byIP.Limit(adaptertest.Outer)).GET("", ok, byIP.Limit(adaptertest.Inner))
	e.HEAD("/one", ok, byIP.Limit(adaptertest.One))
	e.OPTIONS("/one", ok, byIP.Limit(adaptertest.One))
	deep := e.Group("/deep", byIP.Limit(adaptertest.Outer)).Group("", byIP.Limit(adaptertest.Burst, adaptertest.Sustained))
	deep.GET("", ok, byIP.Limit(adaptertest.Inner))
	e.Group("/twice", byIP.Limit(adaptertest.One)).GET("", ok, byIP.Limit(adaptertest.One))
	e.Group("/keys", byHeader.Limit(adaptertest.Inner)).GET("", ok, byIP.Limit(adaptertest.One))
	legacy := by(echolimit.ClientIP(), echolimit.LegacyFields())
	e.Group("/legacy", legacy.Limit(adaptertest.Outer)).GET("", ok, legacy.Limit(adaptertest.Burst, adaptertest.Inner))
	e.GET("/secret", ok, by(echolimit.ClientIP(), echolimit.NoFields()).Limit(adaptertest.One))
	e.GET("/text", ok, by(echolimit.Header("X-API-Key"), echolimit.PlainText()).Limit(adaptertest.One))
	e.GET("/begun", ok, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			adaptertest.Begin(c.Response())
			return next(c)
		}
	}, byIP.Limit(adaptertest.One))
	e.GET("/panic", func(*echo.Context) error { panic("downstream") }, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			defer func() {
				if recover() != nil {
					adaptertest.Recovered(c.Response())
				}
			}()
			return next(c)
		}
	}, byIP.Limit(adaptertest.One))
	e.GET("/upgrade", func(c *echo.Context) error {
		adaptertest.Upgrade(c.Response())
		return nil
	}, byIP.Limit(adaptertest.One))
	e.GET("/quoted", ok, byIP.Limit(adaptertest.Quoted))
	e.GET("/header", ok, byHeader.Limit(adaptertest.One))
	e.GET("/first", ok, byFirst.Limit(adaptertest.One))
	for path, key := range map[string]echolimit.KeyFunc{
		"/bearer":    echolimit.BearerToken(),
		"/cookie":    echolimit.Cookie("session"),
		"/query":     echolimit.Query("api_key", echolimit.HashKey(adaptertest.Secret)),
		"/path/:id":  echolimit.PathParam("id"),
		"/path":      echolimit.PathParam("id"),
		"/route/:id": echolimit.Route(),
		"/join/:id":  echolimit.Join(echolimit.PathParam("id"), echolimit.ClientIP()),
		"/global":    echolimit.Global(),
	} {
		e.GET(path, ok, by(key).Limit(adaptertest.One))
	}
	e.GET("/own", ok, byOwn.Limit(adaptertest.One))
	e.GET("/plan", ok, byIP.LimitFunc(func(c *echo.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.Request().Header.Get("X-Plan"))
	}))
	e.GET("/denied", ok, custom.Limit(adaptertest.One))
	e.GET("/proxied", ok, byProxied.Limit(adaptertest.One))
	e.GET("/framework", ok, byFramework.Limit(adaptertest.One))
	e.GET("/silent", ok, silent.Limit(adaptertest.One))
	number := func(name string) func(*echo.Context) int {
		return func(c *echo.Context) int { return adaptertest.Number(c.QueryParam(name)) }
	}
	e.GET("/cost", ok, by(echolimit.ClientIP(), echolimit.Cost(number("cost"))).Limit(adaptertest.Outer))
	e.GET("/failures", func(c *echo.Context) error { return c.NoContent(number("status")(c)) },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One))
	e.GET("/guard", func(c *echo.Context) error { return c.NoContent(number("status")(c)) },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Guard))
	e.GET("/vault", func(c *echo.Context) error { adaptertest.Attempt(c.Response(), number("status")(c)); return nil },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Vault))
	e.Group("/tokens", byIP.Limit(adaptertest.Outer)).
		GET("", ok, by(echolimit.ClientIP(), echolimit.Cost(number("cost"))).Limit(adaptertest.Tokens))
	e.GET("/logins", func(c *echo.Context) error { adaptertest.Attempt(c.Response(), number("status")(c)); return nil },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Logins))
	exempt := echolimit.Exempt(func(c *echo.Context) bool { return adaptertest.Staff(c.Request().Header.Get("X-Staff")) })
	byExempt := by(echolimit.Header("X-API-Key"), exempt)
	e.GET("/exempt", ok, byExempt.Limit(adaptertest.One))
	e.GET("/exempt/plan", ok, byExempt.LimitFunc(func(c *echo.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.Request().Header.Get("X-Plan"))
	}))
	e.GET("/exempt/table", ok, byExempt.LimitRoutes(echolimit.Routes{"GET /exempt/table": {adaptertest.One}}))
	e.GET("/exempt/failures", func(c *echo.Context) error { return c.NoContent(http.StatusNotFound) },
		by(echolimit.Header("X-API-Key"), exempt, echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One))
	e.GET("/dry", ok, by(echolimit.Header("X-API-Key"), echolimit.DryRun(), echolimit.Cost(number("cost"))).Limit(adaptertest.One))
	e.GET("/answered", ok, byIP.LimitFunc(func(c *echo.Context) ([]core.Limit, error) {
		adaptertest.Refuse(c.Response())
		return nil, errors.New("the plan is unknown")
	}))
	e.RouteNotFound("/*", func(c *echo.Context) error {
		adaptertest.NotFound(c.Response())
		return nil
	})
	handle := func(c *echo.Context) error {
		adaptertest.Handle(c.Response(), c.Request())
		return nil
	}
	failed := by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed))
	e.GET("/given", handle, failed.Limit(adaptertest.Inner))
	succeeded := by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Succeeded))
	e.GET("/actions", handle, succeeded.Limit(adaptertest.Inner))
	fail := func(c *echo.Context) error { return adaptertest.Status(number("status")(c)) }
	e.GET("/mapped", fail, failed.Limit(adaptertest.One))
	e.GET("/mapping", fail, failed.Limit(adaptertest.One), render)
	settled := func(opts ...echolimit.Option) *echolimit.Middleware {
		opts = append(opts, echolimit.Cost(number("cost")), echolimit.CostAfter(number("actual")))
		return by(echolimit.ClientIP(), opts...)
	}
	tried := settled(echolimit.CountOnly(adaptertest.Failed))
	e.GET("/settled", ok, settled().Limit(adaptertest.Outer))
	e.GET("/spent", handle, settled().Limit(adaptertest.Spent))
	e.GET("/tried", handle, tried.Limit(adaptertest.Spent))
	e.GET("/fails", fail, tried.Limit(adaptertest.Spent))
	e.GET("/flight", handle, byIP.Limit(adaptertest.Flight))
	e.GET("/flight/several", handle, byIP.Limit(adaptertest.Flight, adaptertest.Inner))
	e.GET("/flight/failures", handle, failed.Limit(adaptertest.Flight, adaptertest.Inner))
	e.GET("/flight/mapped", fail, failed.Limit(adaptertest.Inner, adaptertest.Flight))
	e.GET("/flight/dry", handle, by(echolimit.ClientIP(), echolimit.DryRun()).Limit(adaptertest.Flight))
	return e
}

func TestConformance(t *testing.T) { adaptertest.Run(t, app) }

func TestMistakesPanicWhereTheyAreWritten(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	for name, mistake := range map[string]func(){
		"no limiter":     func() { echolimit.New(nil, echolimit.ClientIP()) },
		"no key":         func() { echolimit.New(limiter, nil) },
		"no limit":       func() { byIP.Limit() },
		"Max 0":          func() { byIP.Limit(core.PerMinute("login", 0)) },
		"a short lease":  func() { byIP.Limit(core.InFlight("reports", 3, 999*time.Millisecond)) },
		"no LimitFunc":   func() { byIP.LimitFunc(nil) },
		"no header name": func() { echolimit.Header("") },
		"two words":      func() { echolimit.Header("API Key") },
		"no keys":        func() { echolimit.FirstOf() },
		"all proxies":    func() { echolimit.ClientIP(echolimit.TrustedProxies("0.0.0.0/0")) },
		"no proxies":     func() { echolimit.ClientIP(echolimit.ProxyHeader("X-Real-IP")) },
		"short secret":   func() { echolimit.HashKey([]byte("hunter2")) },
		"a path":         func() { echolimit.PathParam("/users/:id") },
		"nothing joined": func() { echolimit.Join() },
		"no route":       func() { byIP.LimitRoutes(echolimit.Routes{"login": {adaptertest.One}}) },
		"negative ban":   func() { byIP.Limit(core.Limit{Name: "login", Max: 5, Window: time.Minute, Ban: -time.Hour}) },
		"nil key":        func() { echolimit.FirstOf(echolimit.ClientIP(), nil) },
	} {
		assert.Panics(t, mistake, name)
	}
	assert.PanicsWithError(t, `exactlimit: invalid: limit "login": Max is 0, it must be at least 1`,
		func() { byIP.Limit(core.PerMinute("login", 0)) })
}

// Echo's own resolution counts once it has been told whom to trust, with a list or with none.
func TestFrameworkClientIP(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	_, peer, err := net.ParseCIDR("192.0.2.1/32")
	require.NoError(t, err)
	for _, row := range []struct {
		name   string
		trust  echo.IPExtractor
		status int // of the second request from another address than the first, as the header has it
	}{
		{"nobody", echo.ExtractIPDirect(), http.StatusTooManyRequests},
		{"somebody else", echo.ExtractIPFromXFFHeader(), http.StatusTooManyRequests},
		{"the peer", echo.ExtractIPFromXFFHeader(echo.TrustIPRange(peer)), http.StatusOK},
	} {
		e := echo.New()
		e.IPExtractor = row.trust
		e.GET("/", ok, echolimit.New(limiter, echolimit.FrameworkClientIP()).Limit(core.PerMinute(row.name, 1)))
		assert.Equal(t, http.StatusOK, adaptertest.Get(e, "/", "X-Forwarded-For: 203.0.113.7").StatusCode, row.name)
		assert.Equal(t, row.status, adaptertest.Get(e, "/", "X-Forwarded-For: 203.0.113.8").StatusCode, row.name)
		assert.Equal(t, http.StatusTooManyRequests, adaptertest.Get(e, "/", "X-Forwarded-For: ::ffff:203.0.113.7").StatusCode, row.name)
	}
}

// One key function may serve several Echos, and each has to be told whom to trust, over IPv6 too.
func TestFrameworkClientIPAsksEachEcho(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := echolimit.New(limiter, echolimit.FrameworkClientIP()).Limit(core.PerMinute("shared", 100))
	trust := func(prefix string) echo.TrustOption {
		_, network, err := net.ParseCIDR(prefix)
		require.NoError(t, err)
		return echo.TrustIPRange(network)
	}
	for _, row := range []struct {
		name   string
		trust  echo.IPExtractor
		status int
	}{
		{"nobody", echo.ExtractIPDirect(), http.StatusOK},
		{"untold", nil, http.StatusOK},
		{"anyone, as in Echo v4", echo.LegacyIPExtractor(), http.StatusInternalServerError},
		{"proxies", echo.ExtractIPFromXFFHeader(trust("10.0.0.0/8"), trust("2400:cb00::/32")), http.StatusOK},
		{"all of IPv4", echo.ExtractIPFromXFFHeader(trust("0.0.0.0/0")), http.StatusInternalServerError},
		{"all of IPv6", echo.ExtractIPFromXFFHeader(trust("::/0")), http.StatusInternalServerError},
		{"all of IPv6 that is assigned", echo.ExtractIPFromRealIPHeader(trust("2000::/3")), http.StatusInternalServerError},
		{"a header from anyone", func(r *http.Request) string { return r.Header.Get("X-Real-IP") }, http.StatusInternalServerError},
		{"nobody again", echo.ExtractIPDirect(), http.StatusOK},
	} {
		e := echo.New()
		e.Logger = slog.New(slog.DiscardHandler)
		e.IPExtractor = row.trust
		e.GET("/", func(c *echo.Context) error {
			assert.Equal(t, "192.0.2.1:1234", c.Request().RemoteAddr, "the request is the client's again")
			return ok(c)
		}, limit)
		for range 2 {
			assert.Equal(t, row.status, adaptertest.Get(e, "/", "X-Real-IP: 203.0.113.7").StatusCode, row.name)
		}
	}
}

// Paths that lead nowhere are together one client, and not that of a route.
func TestUnmatchedPathsAreOneClient(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byRoute := echolimit.New(limiter, echolimit.Route())
	e := echo.New()
	e.Use(byRoute.Limit(adaptertest.One))
	e.GET("/users/:id", ok)
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
		e.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}

// In Echo.Pre there is no route yet, and what depends on one is warned of, once.
func TestLimitsInPre(t *testing.T) {
	said, before := new(bytes.Buffer), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(said, nil)))
	defer slog.SetDefault(before)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	for name, middleware := range map[string]echo.MiddlewareFunc{
		"Limit":       byIP.Limit(core.PerMinute("any", 9)),
		"LimitRoutes": echolimit.New(limiter, echolimit.ClientIP()).LimitRoutes(echolimit.Routes{"GET /login": {adaptertest.One}}),
	} {
		e := echo.New()
		e.GET("/login", ok)
		e.Use(middleware)
		adaptertest.Get(e, "/login")
		adaptertest.Get(e, "/unknown")
		assert.Empty(t, said.String(), name)

		e = echo.New()
		e.GET("/login", ok)
		e.Pre(middleware)
		adaptertest.Get(e, "/unknown")
		assert.Empty(t, said.String(), name)
		for range 3 {
			adaptertest.Get(e, "/login")
		}
		assert.Contains(t, said.String(), "Write Echo.Use instead", name)
		assert.Equal(t, 1, strings.Count(said.String(), "\n"), name)
		said.Reset()
	}
}

// A table of limits that does not fit the routes is told at start.
func TestRoutesThatDoNotFit(t *testing.T) {
	e := echo.New()
	e.GET("/search", ok)
	e.Group("/users", func(next echo.HandlerFunc) echo.HandlerFunc { return next }).POST("/:id", ok)
	e.GET("reports", ok) // which Echo matches with the slash
	e.Any("/files/*", ok)
	e.RouteNotFound("/*", ok)
	one := []core.Limit{adaptertest.One}
	fits := echolimit.Routes{
		"GET /search": one, "POST /users/:id": nil, "GET /reports": one, "ANY /files/*": one, "RouteNotFound": one,
	}
	assert.NoError(t, fits.Check(e))
	assert.NoError(t, fits.CheckAll(e))
	misses := echolimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(e), "exactlimit: the table of limits does not fit the routes:\n"+
		"\tPOST /users/:user: there are limits for it, and no such route")
	assert.EqualError(t, misses.CheckAll(e), "exactlimit: the table of limits does not fit the routes:\n"+
		"\tANY /files/*: there is no entry for it: write its limits, or nil if it needs none\n"+
		"\tGET /reports: there is no entry for it: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:id: there is no entry for it: write its limits, or nil if it needs none\n"+
		"\tPOST /users/:user: there are limits for it, and no such route\n"+
		"\tRouteNotFound: there is no entry for requests that match no route:"+
		" write their limits, or nil if they need none")
}

// RouteNotFound stands for all requests that match no route, and for no others.
func TestLimitsOfRequestsWithoutRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	limits := byIP.LimitRoutes(echolimit.Routes{
		"GET /search":   {adaptertest.Outer},
		"RouteNotFound": {adaptertest.Inner},
	})
	for i := range 2 { // one middleware may be on many
		e := echo.New()
		e.Use(limits)
		e.GET(fmt.Sprint("/only/", i), ok)
		e.GET("/search", ok)
		e.Group("/api", func(next echo.HandlerFunc) echo.HandlerFunc { return next }).GET("/users/:id", ok)
		e.RouteNotFound("/files/*", ok)
		e.GET("/files/*", ok)
		for _, row := range []struct {
			method, target string
			limited        bool
		}{
			{"GET", "/search", true},
			{"GET", "/api/users/1", false},
			{"GET", "/files/1", false},
			{"GET", fmt.Sprint("/only/", i), false},
			{"GET", fmt.Sprint("/only/", 1-i), true},
			{"GET", "/nowhere", true},
			{"BREW", "/search", true},
			{"OPTIONS", "/search", true},
			{"POST", "/api/users/1", true},
			{"GET", "/api", true},
			{"GET", "/api/nowhere", true},
			{"POST", "/files/1", true},
		} {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest(row.method, "http://example.com"+row.target, nil))
			assert.Equal(t, row.limited, w.Header().Get("Ratelimit") != "", row)
		}
	}
}

// The status of a relayed answer hides behind an interim one with Echo's own proxy, too.
func TestCountOnlyBehindEchosProxy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	failed := echolimit.New(limiter, echolimit.Global(), echolimit.CountOnly(adaptertest.Failed))
	e.Use(failed.Limit(adaptertest.Inner))
	e.Use(middleware.Proxy(middleware.NewRoundRobinBalancer([]*middleware.ProxyTarget{{URL: target}})))
	server := httptest.NewServer(e)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}}
	for i := range adaptertest.Inner.Max + 1 {
		r, err := http.NewRequest("POST", server.URL, strings.NewReader("password=hunter2"))
		require.NoError(t, err)
		r.Header.Set("Expect", "100-continue")
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, i == adaptertest.Inner.Max, response.StatusCode == http.StatusTooManyRequests, i)
	}
}

// What counts is decided by the status that the client sees: also of an error that Echo's error handler answers, and of a
// panic.
func TestCountOnlySeesTheAnswersStatus(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerHour("failures", 3)
	e := echo.New()
	e.Use(middleware.Recover())
	failed := echolimit.New(limiter, echolimit.Global(), echolimit.CountOnly(func(status int) bool { return status == 401 || status == 500 }))
	answers := map[string]echo.HandlerFunc{
		"/fine":      func(c *echo.Context) error { return c.NoContent(http.StatusOK) },
		"/forbidden": func(*echo.Context) error { return echo.ErrForbidden },
		"/wrapped":   func(*echo.Context) error { return fmt.Errorf("login: %w", echo.ErrUnauthorized) },
		"/inner":     func(*echo.Context) error { return echo.NewHTTPError(403, "").Wrap(echo.ErrUnauthorized) },
		"/begun": func(c *echo.Context) error {
			return errors.Join(c.NoContent(http.StatusOK), errors.New("no database"))
		},
		"/error": func(*echo.Context) error { return errors.New("no database") },
		"/panic": func(*echo.Context) error { panic("no database") },
	}
	for path, answer := range answers {
		e.GET(path, answer, failed.Limit(limit))
	}
	charged := func() int {
		d, err := limiter.Peek(t.Context(), "global", limit)
		require.NoError(t, err)
		return limit.Max - d.Remaining
	}
	for _, row := range []struct {
		path    string
		status  int
		counted bool
	}{
		{"/fine", 200, false}, {"/begun", 200, false},
		{"/forbidden", 403, false}, {"/inner", 403, false},
		{"/error", 500, true}, {"/wrapped", 401, true}, {"/panic", 500, true},
	} {
		before := charged()
		status := adaptertest.Get(e, row.path).StatusCode
		assert.Equal(t, row.status, status, row.path)
		assert.Equal(t, row.counted, charged() > before, row.path)
	}
	assert.Equal(t, 429, adaptertest.Get(e, "/fine").StatusCode)
}

// opaque is a writer of middleware's that has no Unwrap, and so hides Echo's Response.
type opaque struct{ w http.ResponseWriter }

func (o opaque) Header() http.Header         { return o.w.Header() }
func (o opaque) Write(p []byte) (int, error) { return o.w.Write(p) }
func (o opaque) WriteHeader(status int)      { o.w.WriteHeader(status) }

// transparent is a writer that does not.
type transparent struct{ opaque }

func (t transparent) Unwrap() http.ResponseWriter { return t.w }

// hide is middleware whose writer hides Echo's Response from all that is behind.
func hide(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c *echo.Context) error {
		c.SetResponse(opaque{c.Response()})
		return next(c)
	}
}

// Behind a writer that hides Echo's Response, and behind one that holds answers back from it, requests are answered once,
// with the same status as without it, and counted by that.
func TestWritersWithoutUnwrap(t *testing.T) {
	for name, writer := range map[string]echo.MiddlewareFunc{
		"hidden": hide,
		"gzip":   middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1000}),
		"plain":  func(next echo.HandlerFunc) echo.HandlerFunc { return next },
	} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			e := echo.New()
			said := new(bytes.Buffer)
			e.Logger = slog.New(slog.NewTextHandler(said, nil))
			e.Use(writer)
			one := core.PerHour("one", 1)
			by := func(key echolimit.KeyFunc, opts ...echolimit.Option) echo.MiddlewareFunc {
				return echolimit.New(limiter, key, opts...).Limit(one)
			}
			e.GET("/limit", func(c *echo.Context) error {
				_, isOpaque := c.Response().(opaque)
				assert.Equal(t, name == "hidden", isOpaque, "handlers get the writer as it was")
				return ok(c)
			}, by(echolimit.Route()))
			e.GET("/text", ok, by(echolimit.Route(), echolimit.OnDenied(func(c *echo.Context, _ core.Decision) error {
				_, err := io.WriteString(c.Response(), "denied")
				return err
			})))
			returns := func(err error) echolimit.Option {
				return echolimit.OnDenied(func(*echo.Context, core.Decision) error { return err })
			}
			e.GET("/silent", ok, by(echolimit.Route(), returns(nil)))
			e.GET("/error", ok, by(echolimit.Route(), returns(echo.ErrForbidden)))
			e.GET("/answered", ok, by(func(c *echo.Context) (string, error) { return "", c.String(http.StatusTeapot, "mine") }))
			failed := echolimit.CountOnly(adaptertest.Failed)
			e.GET("/success", ok, by(echolimit.Route(), failed))
			e.GET("/failure", func(c *echo.Context) error {
				return c.String(http.StatusUnauthorized, "who?")
			}, by(echolimit.Route(), failed))
			e.GET("/bare", func(c *echo.Context) error { return c.NoContent(http.StatusUnauthorized) }, by(echolimit.Route(), failed))
			e.GET("/failing", func(*echo.Context) error { return echo.ErrUnauthorized }, by(echolimit.Route(), failed))
			e.GET("/gone", func(*echo.Context) error { return echo.NewHTTPError(http.StatusGone, "") },
				by(echolimit.Route(), echolimit.CountOnly(func(status int) bool { return status == http.StatusUnauthorized })))
			e.GET("/nothing", func(*echo.Context) error { return nil }, by(echolimit.Route(), failed))
			for _, row := range []struct {
				target string
				first  int
				body   string
				second int
			}{
				{"/limit", 200, "ok", 429},
				{"/text", 200, "ok", 429},
				{"/silent", 200, "ok", 429},
				{"/error", 200, "ok", 403},
				{"/answered", 418, "mine", 418},
				{"/success", 200, "ok", 200},
				{"/failure", 401, "who?", 429},
				{"/bare", 401, "", 429},
				{"/failing", 401, "{\"message\":\"Unauthorized\"}\n", 429},
				{"/gone", 410, "{\"message\":\"Gone\"}\n", 410},
				{"/nothing", 200, "", 200},
			} {
				const gzip = "Accept-Encoding: gzip"
				first, second := adaptertest.Get(e, row.target, gzip), adaptertest.Get(e, row.target, gzip)
				body, err := io.ReadAll(first.Body)
				require.NoError(t, err)
				assert.Equal(t, row.body, string(body), row.target)
				assert.Equal(t, []int{row.first, row.second}, []int{first.StatusCode, second.StatusCode}, row.target)
			}
			assert.Empty(t, said.String())
		})
	}
}

// An answer that has begun behind a writer of middleware's stays as it is.
func TestBegunBehindAWriter(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	begin := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.SetResponse(transparent{opaque{c.Response()}})
			adaptertest.Begin(c.Response())
			return next(c)
		}
	}
	e.Use(begin, echolimit.New(limiter, echolimit.ClientIP()).Limit(core.PerHour("one", 1)))
	e.GET("/", ok)
	for _, want := range []string{"begun, ok", "begun, "} {
		body, err := io.ReadAll(adaptertest.Get(e, "/").Body)
		require.NoError(t, err)
		assert.Equal(t, want, string(body))
	}
}

// A HEAD that Echo answers by a route for GET is under the limits of that route, and counts by the status that its client
// sees.
func TestAutoHandleHEAD(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(echo.RouterConfig{AutoHandleHEAD: true})})
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	byRoute := echolimit.New(limiter, echolimit.Route())
	custom := echolimit.New(limiter, echolimit.ClientIP(), echolimit.OnDenied(func(c *echo.Context, _ core.Decision) error {
		_, err := io.WriteString(c.Response(), "denied")
		return err
	}))
	table := core.PerHour("table", 2)
	e.Use(byIP.LimitRoutes(echolimit.Routes{"GET /table": {table}, "RouteNotFound": {core.PerHour("unknown", 1)}}))
	e.GET("/table", ok)
	e.GET("/route", ok, byRoute.Limit(core.PerHour("route", 2)))
	e.GET("/custom", ok, custom.Limit(core.PerHour("custom", 2)))
	failed := echolimit.New(limiter, echolimit.Route(), echolimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failed", 2))
	e.GET("/success", ok, failed)
	e.GET("/failure", func(c *echo.Context) error { return c.String(http.StatusUnauthorized, "who?") }, failed)
	e.GET("/failing", func(*echo.Context) error { return echo.ErrUnauthorized }, failed)
	e.GET("/nothing", func(*echo.Context) error { return nil }, failed)
	for _, row := range []struct {
		target   string
		statuses string // of three requests
	}{
		{"/table", "[200 200 429]"},
		{"/route", "[200 200 429]"},
		{"/custom", "[200 200 429]"},
		{"/success", "[200 200 200]"},
		{"/failure", "[401 401 429]"},
		{"/failing", "[401 401 429]"},
		{"/nothing", "[200 200 200]"},
		{"/nowhere", "[404 429 429]"},
	} {
		var statuses []int
		for range 3 {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest("HEAD", row.target, nil))
			statuses = append(statuses, w.Code)
		}
		assert.Equal(t, row.statuses, fmt.Sprint(statuses), row.target)
	}
	// The client of the table is the same by GET.
	assert.Equal(t, http.StatusTooManyRequests, adaptertest.Get(e, "/table").StatusCode)
}

// CountOnly sees the status of a HEAD on the whole Echo, too, where Echo has written the answer before the limiter goes on.
func TestAutoHandleHEADOnTheWhole(t *testing.T) {
	for status, want := range map[int]string{200: "[200 200 200]", 401: "[401 429 429]"} {
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(echo.RouterConfig{AutoHandleHEAD: true})})
		e.Use(echolimit.New(limiter, echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failed", 1)))
		e.GET("/", func(c *echo.Context) error { return c.String(status, "answer") })
		var statuses []int
		for range 3 {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest("HEAD", "/", nil))
			statuses = append(statuses, w.Code)
		}
		assert.Equal(t, want, fmt.Sprint(statuses))
	}
}

// Echo.Any is one route, whatever the method, and methods with a route of their own are not part of it.
func TestAnyIsOneRoute(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	routes := echolimit.Routes{"ANY /files/*": {core.PerHour("files", 2)}, "GET /files/*": nil, "RouteNotFound": nil}
	e.Use(echolimit.New(limiter, echolimit.ClientIP()).LimitRoutes(routes))
	e.Any("/files/*", ok)
	e.GET("/files/*", ok)
	require.NoError(t, routes.CheckAll(e))
	for _, row := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/files/1", 200}, {"POST", "/files/1", 200}, {"GET", "/files/1", 200}, {"BREW", "/files/2", 200},
		{"PUT", "/files/3", 429}, {"GET", "/files/1", 200}, {"ANY", "/files/1", 429}, {"POST", "/nowhere", 404},
	} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(row.method, row.target, nil))
		assert.Equal(t, row.status, w.Code, row)
	}
}

// A parameter is one client however it is escaped, and what spells an escape is another, whatever the router decodes.
func TestPathParamIsDecodedOnce(t *testing.T) {
	for name, config := range map[string]echo.RouterConfig{
		"as written":         {},
		"decoded parameters": {UnescapePathParamValues: true},
		"decoded path":       {UseEscapedPathForMatching: true},
		"both":               {UnescapePathParamValues: true, UseEscapedPathForMatching: true},
	} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(config)})
			e.GET("/at\\:home/:other/:id/end", ok, echolimit.New(limiter, echolimit.PathParam("id")).Limit(core.PerHour("id", 1)))
			for _, row := range []struct {
				id     string
				status int
			}{
				{"ann", 200}, {"%61nn", 429}, {"%61%6e%6E", 429}, {"a%6en", 429},
				{"%2561nn", 200}, {"%2561%6en", 429}, {"%25%361nn", 429}, // the client "%61nn"
				{"%252561%6en", 200}, {"%252561nn", 429}, // and the client "%2561nn"
				{"caf%C3%A9", 200}, {"caf%c3%a9", 429}, {"%63af%c3%a9", 429},
			} {
				assert.Equal(t, row.status, adaptertest.Get(e, "/at:home/x%2Bx/"+row.id+"/end").StatusCode, row.id)
			}
		})
	}
}

// A request that matches no method of its path has no parameters, though Echo's context may still hold those of another.
func TestPathParamOfNoRoute(t *testing.T) {
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	e.Use(echolimit.New(limiter, echolimit.PathParam("id")).Limit(core.PerHour("id", 1)))
	e.GET("/users/:id", ok)
	for range 3 {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("POST", "/users/ann", nil))
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		adaptertest.Get(e, "/users/bob")
	}
}

// What counts is what the client sees, whatever middleware of Echo's stands in front of the limiter or behind it, and whatever
// a handler does after it has answered.
func TestCountOnlyAmongMiddleware(t *testing.T) {
	plain := func(writer echo.MiddlewareFunc) func(time.Duration) echo.MiddlewareFunc {
		return func(time.Duration) echo.MiddlewareFunc { return writer }
	}
	writers := map[string]func(time.Duration) echo.MiddlewareFunc{
		"nothing":      plain(func(next echo.HandlerFunc) echo.HandlerFunc { return next }),
		"gzip":         plain(middleware.Gzip()),
		"gzip of much": plain(middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1000})),
		"body dump":    plain(middleware.BodyDump(func(*echo.Context, []byte, []byte, error) {})),
		"a deadline":   middleware.ContextTimeout,
		"TimeoutHandler": func(d time.Duration) echo.MiddlewareFunc {
			return echo.WrapMiddleware(func(h http.Handler) http.Handler { return http.TimeoutHandler(h, d, "late") })
		},
	}
	answers := map[string]echo.HandlerFunc{
		"/success": ok,
		"/nothing": func(*echo.Context) error { return nil },
		"/failure": func(c *echo.Context) error { return c.String(http.StatusUnauthorized, "who?") },
		"/bare":    func(c *echo.Context) error { return c.NoContent(http.StatusUnauthorized) },
		"/goes-on": func(c *echo.Context) error { // as where a return has been forgotten
			return errors.Join(c.JSON(http.StatusUnauthorized, "who?"), c.JSON(http.StatusOK, "welcome"))
		},
		"/fails-late": func(c *echo.Context) error {
			return errors.Join(c.JSON(http.StatusOK, "welcome"), c.JSON(http.StatusUnauthorized, "who?"))
		},
		"/failing": func(*echo.Context) error { return echo.ErrUnauthorized },
		"/moved":   func(*echo.Context) error { return echo.NewHTTPError(http.StatusFound, "") },
		"/slow": func(c *echo.Context) error {
			<-c.Request().Context().Done()
			return context.DeadlineExceeded
		},
	}
	for name, writer := range writers {
		for path, answer := range answers {
			timeout := time.Hour
			if path == "/slow" {
				timeout = 50 * time.Millisecond
			}
			switch {
			case path == "/slow" && name != "a deadline": // would wait for ever, or be a race of Echo's
				continue
			case name == "TimeoutHandler" && (path == "/failing" || path == "/moved"): // Echo answers it too late
				continue
			}
			for _, inFront := range []bool{true, false} {
				limiter, err := core.NewInProcess()
				require.NoError(t, err)
				defer limiter.Close()
				limit := core.PerHour("failures", 9)
				failed := echolimit.New(limiter, echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(limit)
				e := echo.New() // for this request alone: a handler that is late still uses its context
				e.Logger = slog.New(slog.DiscardHandler)
				if inFront {
					e.Use(writer(timeout), failed)
				} else {
					e.Use(failed, writer(timeout))
				}
				e.GET(path, answer)
				status := adaptertest.Get(e, path, "Accept-Encoding: gzip").StatusCode
				d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", limit)
				require.NoError(t, err)
				assert.Equal(t, adaptertest.Failed(status), d.Remaining < limit.Max,
					"%s, %d with %s in front: %v", path, status, name, inFront)
			}
		}
	}
}
