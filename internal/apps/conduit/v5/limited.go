package conduit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-playground/validator/v10"
	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// NewLimited returns the application with limits.
func NewLimited(store *conduit.Store, config conduit.Config, limiter *core.Limiter) *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler, e.Binder, e.Validator = answerError, binder{}, checker{validator.New()}
	a := &api{store, config}

	address := echolimit.ClientIP(echolimit.TrustedProxies(config.TrustedProxies...))
	byIP := echolimit.New(limiter, address)
	failures := echolimit.New(limiter, address, echolimit.CountOnly(forbidden))
	byUser := echolimit.New(limiter, echolimit.FirstOf(userKey, address), echolimit.OnDenied(tooMany))

	e.Pre(middleware.RemoveTrailingSlash())
	e.Use(middleware.RequestID(), middleware.RequestLoggerWithConfig(logging))
	e.Use(middleware.Recover())
	e.Use(middleware.CORSWithConfig(middleware.CORSConfig{
		AllowOrigins:  []string{"https://conduit.example.com"},
		AllowHeaders:  []string{"Authorization", "Content-Type"},
		ExposeHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After"},
	}))
	e.Use(middleware.Gzip(), middleware.BodyLimit(64<<10))
	e.Use(byIP.Limit(core.PerMinute("site", 300)))

	guests := e.Group("/api/users")
	guests.POST("", a.register, byIP.Limit(core.PerHour("registrations", 20)))
	guests.POST("/login", a.login, failures.Limit(guard))

	users := e.Group("/api", a.authenticate(never))
	users.GET("/user", a.currentUser)
	users.POST("/profiles/:username/follow", a.follow)
	users.DELETE("/profiles/:username/follow", a.follow)

	articles := e.Group("/api/articles", a.authenticate(reading))
	articles.Use(byUser.LimitFunc(plan))
	articles.GET("", a.articles)
	articles.POST("", a.write)
	articles.GET("/feed", a.feed)
	articles.GET("/:slug", a.article)
	articles.DELETE("/:slug", a.delete)
	articles.POST("/:slug/favorite", a.favor)
	articles.DELETE("/:slug/favorite", a.favor)
	articles.GET("/:slug/comments", a.comments)
	articles.POST("/:slug/comments", a.comment)
	articles.DELETE("/:slug/comments/:id", a.deleteComment)
	return e
}

// guard allows five wrong passwords in a minute.
var guard = core.Limit{Name: "guesses", Max: 5, Window: time.Minute, Ban: time.Hour}

func forbidden(status int) bool { return status == http.StatusForbidden }

// userKey is that of a user; guests have none.
func userKey(c *echo.Context) (string, error) {
	if id := userID(c); id != 0 {
		return "user:" + strconv.Itoa(id), nil
	}
	return "", nil
}

// plan allows fewer writes than reads, and more of them to users who pay.
func plan(c *echo.Context) ([]core.Limit, error) {
	switch c.Request().Method {
	case http.MethodGet, http.MethodHead:
		return []core.Limit{core.PerMinute("reads", 120)}, nil
	}
	if c.Get("pro") == true {
		return []core.Limit{core.PerMinute("writes", 60), core.PerDay("writes-daily", 1000)}, nil
	}
	return []core.Limit{core.PerMinute("writes", 20), core.PerDay("writes-daily", 100)}, nil
}

// tooMany has the application's own error handler answer.
func tooMany(*echo.Context, core.Decision) error { return echo.ErrTooManyRequests }
