package ginlimit_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"

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

	// render responds to errors after the handlers have run, even if they have responded, as gotify's middleware does.
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
	deep := r.Group("/deep", byIP.Limit(adaptertest.Outer)).
		Group("", byIP.Limit(adaptertest.Burst, adaptertest.Sustained))
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
	r.GET("/exempt/failures", by(ginlimit.Header("X-API-Key"), exempt,
		ginlimit.CountOnly(adaptertest.Failed)).Limit(adaptertest.One),
		func(c *gin.Context) { c.Status(http.StatusNotFound) })
	r.GET("/dry", by(ginlimit.Header("X-API-Key"), ginlimit.DryRun(),
		ginlimit.Cost(number("cost"))).Limit(adaptertest.One), ok)
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
