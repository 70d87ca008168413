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

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

func ok(c echo.Context) error {
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
	byOwn := by(func(c echo.Context) (string, error) { return adaptertest.OwnKey(c.QueryParam("user")) })
	custom := by(echolimit.ClientIP(), echolimit.OnDenied(func(c echo.Context, d core.Decision) error {
		adaptertest.Denied(c.Response(), d)
		return nil
	}))

	silent := by(echolimit.ClientIP(), echolimit.OnDenied(func(echo.Context, core.Decision) error { return nil }))
	byProxied := by(echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8", "unix")))
	byFramework := by(echolimit.FrameworkClientIP())

	// render answers errors after the handlers have run, whether or not they have answered.
	render := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if err := next(c); err != nil {
				adaptertest.Render(c.Response(), err)
			}
			return nil
		}
	}

	e := echo.New()
	e.Logger.SetOutput(new(bytes.Buffer))
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
		return func(c echo.Context) error {
			adaptertest.Begin(c.Response())
			return next(c)
		}
	}, byIP.Limit(adaptertest.One))
	e.GET("/panic", func(echo.Context) error { panic("downstream") }, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			defer func() {
				if recover() != nil {
					adaptertest.Recovered(c.Response())
				}
			}()
			return next(c)
		}
	}, byIP.Limit(adaptertest.One))
	e.GET("/upgrade", func(c echo.Context) error {
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
	e.GET("/plan", ok, byIP.LimitFunc(func(c echo.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.Request().Header.Get("X-Plan"))
	}))
	e.GET("/denied", ok, custom.Limit(adaptertest.One))
	e.GET("/proxied", ok, byProxied.Limit(adaptertest.One))
	e.GET("/framework", ok, byFramework.Limit(adaptertest.One))
	e.GET("/silent", ok, silent.Limit(adaptertest.One))
	number := func(name string) func(echo.Context) int {
		return func(c echo.Context) int { return adaptertest.Number(c.QueryParam(name)) }
	}
	e.GET("/cost", ok, by(echolimit.ClientIP(), echolimit.Cost(number("cost"))).Limit(adaptertest.Outer))
	e.GET("/failures", func(c echo.Context) error { return c.NoContent(number("status")(c)) },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One))
	e.GET("/guard", func(c echo.Context) error { return c.NoContent(number("status")(c)) },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Guard))
	e.GET("/vault", func(c echo.Context) error { adaptertest.Attempt(c.Response(), number("status")(c)); return nil },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Vault))
	e.Group("/tokens", byIP.Limit(adaptertest.Outer)).
		GET("", ok, by(echolimit.ClientIP(), echolimit.Cost(number("cost"))).Limit(adaptertest.Tokens))
	e.GET("/logins", func(c echo.Context) error { adaptertest.Attempt(c.Response(), number("status")(c)); return nil },
		by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.Logins))
	exempt := echolimit.Exempt(func(c echo.Context) bool { return adaptertest.Staff(c.Request().Header.Get("X-Staff")) })
	byExempt := by(echolimit.Header("X-API-Key"), exempt)
	e.GET("/exempt", ok, byExempt.Limit(adaptertest.One))
	e.GET("/exempt/plan", ok, byExempt.LimitFunc(func(c echo.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.Request().Header.Get("X-Plan"))
	}))
	e.GET("/exempt/table", ok, byExempt.LimitRoutes(echolimit.Routes{"GET /exempt/table": {adaptertest.One}}))
	e.GET("/exempt/failures", func(c echo.Context) error { return c.NoContent(http.StatusNotFound) },
		by(echolimit.Header("X-API-Key"), exempt, echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One))
	e.GET("/dry", ok, by(echolimit.Header("X-API-Key"), echolimit.DryRun(), echolimit.Cost(number("cost"))).Limit(adaptertest.One))
	e.GET("/answered", ok, byIP.LimitFunc(func(c echo.Context) ([]core.Limit, error) {
		adaptertest.Refuse(c.Response())
		return nil, errors.New("the plan is unknown")
	}))
	e.RouteNotFound("/*", func(c echo.Context) error {
		adaptertest.NotFound(c.Response())
		return nil
	})
	handle := func(c echo.Context) error {
		adaptertest.Handle(c.Response(), c.Request())
		return nil
	}
	failed := by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Failed))
	e.GET("/given", handle, failed.Limit(adaptertest.Inner))
	succeeded := by(echolimit.ClientIP(), echolimit.CountOnly(adaptertest.Succeeded))
	e.GET("/actions", handle, succeeded.Limit(adaptertest.Inner))
	fail := func(c echo.Context) error { return adaptertest.Status(number("status")(c)) }
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
		{"untold", nil, http.StatusInternalServerError},
		{"proxies", echo.ExtractIPFromXFFHeader(trust("10.0.0.0/8"), trust("2400:cb00::/32")), http.StatusOK},
		{"all of IPv4", echo.ExtractIPFromXFFHeader(trust("0.0.0.0/0")), http.StatusInternalServerError},
		{"all of IPv6", echo.ExtractIPFromXFFHeader(trust("::/0")), http.StatusInternalServerError},
		{"all of IPv6 that is assigned", echo.ExtractIPFromRealIPHeader(trust("2000::/3")), http.StatusInternalServerError},
		{"a header from anyone", func(r *http.Request) string { return r.Header.Get("X-Real-IP") }, http.StatusInternalServerError},
		{"nobody again", echo.ExtractIPDirect(), http.StatusOK},
	} {
		e := echo.New()
		e.Logger.SetOutput(new(bytes.Buffer))
		e.IPExtractor = row.trust
		e.GET("/", func(c echo.Context) error {
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
	e.Host("api.example.com").GET("/search", ok)
	e.GET("reports", ok) // which Echo matches with the slash
	e.RouteNotFound("/*", ok)
	one := []core.Limit{adaptertest.One}
	fits := echolimit.Routes{"GET /search": one, "POST /users/:id": nil, "GET /reports": one, "RouteNotFound": one}
	assert.NoError(t, fits.Check(e))
	assert.NoError(t, fits.CheckAll(e))
	misses := echolimit.Routes{"GET /search": {adaptertest.One}, "POST /users/:user": {adaptertest.One}}
	assert.EqualError(t, misses.Check(e), "exactlimit: the table of limits does not fit the routes:\n"+
		"\tPOST /users/:user: there are limits for it, and no such route")
	assert.EqualError(t, misses.CheckAll(e), "exactlimit: the table of limits does not fit the routes:\n"+
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
	e.Logger.SetOutput(io.Discard)
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
	limit := core.PerHour("failures", 4)
	e := echo.New()
	e.Use(middleware.RecoverWithConfig(middleware.RecoverConfig{LogErrorFunc: func(_ echo.Context, err error, _ []byte) error { return err }}))
	failed := echolimit.New(limiter, echolimit.Global(), echolimit.CountOnly(func(status int) bool { return status == 401 || status == 500 }))
	answers := map[string]echo.HandlerFunc{
		"/fine":      func(c echo.Context) error { return c.NoContent(http.StatusOK) },
		"/forbidden": func(echo.Context) error { return echo.ErrForbidden },
		"/wrapped":   func(echo.Context) error { return fmt.Errorf("login: %w", echo.ErrUnauthorized) },
		"/inner":     func(echo.Context) error { return echo.NewHTTPError(403).SetInternal(echo.ErrUnauthorized) },
		"/begun": func(c echo.Context) error {
			return errors.Join(c.NoContent(http.StatusOK), errors.New("no database"))
		},
		"/error": func(echo.Context) error { return errors.New("no database") },
		"/panic": func(echo.Context) error { panic("no database") },
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
		{"/forbidden", 403, false}, {"/inner", 401, true},
		{"/error", 500, true}, {"/wrapped", 500, true}, {"/panic", 500, true},
	} {
		before := charged()
		status := adaptertest.Get(e, row.path).StatusCode
		assert.Equal(t, row.status, status, row.path)
		assert.Equal(t, row.counted, charged() > before, row.path)
	}
	assert.Equal(t, 429, adaptertest.Get(e, "/fine").StatusCode)
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
		"body dump":    plain(middleware.BodyDump(func(echo.Context, []byte, []byte) {})),
		"a deadline":   middleware.ContextTimeout,
		"timeout": func(d time.Duration) echo.MiddlewareFunc {
			//lint:ignore SA1019 services that have it are to be limited as well
			return middleware.TimeoutWithConfig(middleware.TimeoutConfig{Timeout: d})
		},
		"TimeoutHandler": func(d time.Duration) echo.MiddlewareFunc {
			return echo.WrapMiddleware(func(h http.Handler) http.Handler { return http.TimeoutHandler(h, d, "late") })
		},
	}
	answers := map[string]echo.HandlerFunc{
		"/success": ok,
		"/nothing": func(echo.Context) error { return nil },
		"/failure": func(c echo.Context) error { return c.String(http.StatusUnauthorized, "who?") },
		"/bare":    func(c echo.Context) error { return c.NoContent(http.StatusUnauthorized) },
		"/goes-on": func(c echo.Context) error { // as where a return has been forgotten
			return errors.Join(c.JSON(http.StatusUnauthorized, "who?"), c.JSON(http.StatusOK, "welcome"))
		},
		"/fails-late": func(c echo.Context) error {
			return errors.Join(c.JSON(http.StatusOK, "welcome"), c.JSON(http.StatusUnauthorized, "who?"))
		},
		"/failing": func(echo.Context) error { return echo.ErrUnauthorized },
		"/moved":   func(echo.Context) error { return echo.NewHTTPError(http.StatusFound) },
		"/slow": func(c echo.Context) error {
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
			case path == "/slow" && name != "timeout" && name != "a deadline": // would wait for ever, or be a race of Echo's
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
				e.Logger.SetOutput(io.Discard)
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
