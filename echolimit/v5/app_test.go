package echolimit_test

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"

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

	// render responds to errors after the handlers have run, even if they have responded.
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
	deep := e.Group("/deep", byIP.Limit(adaptertest.Outer)).
		Group("", byIP.Limit(adaptertest.Burst, adaptertest.Sustained))
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
	exempt := echolimit.Exempt(func(c *echo.Context) bool {
		return adaptertest.Staff(c.Request().Header.Get("X-Staff"))
	})
	byExempt := by(echolimit.Header("X-API-Key"), exempt)
	e.GET("/exempt", ok, byExempt.Limit(adaptertest.One))
	e.GET("/exempt/plan", ok, byExempt.LimitFunc(func(c *echo.Context) ([]core.Limit, error) {
		return adaptertest.Plan(c.Request().Header.Get("X-Plan"))
	}))
	e.GET("/exempt/table", ok, byExempt.LimitRoutes(echolimit.Routes{"GET /exempt/table": {adaptertest.One}}))
	e.GET("/exempt/failures", func(c *echo.Context) error { return c.NoContent(http.StatusNotFound) },
		by(echolimit.Header("X-API-Key"), exempt, echolimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One))
	e.GET("/dry", ok, by(echolimit.Header("X-API-Key"), echolimit.DryRun(),
		echolimit.Cost(number("cost"))).Limit(adaptertest.One))
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
