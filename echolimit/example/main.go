// The example is a small API behind exactlimit, in Echo v4:
//
//	go run ./echolimit/example
//	curl -i http://127.0.0.1:8080/api/search
//
// Give several instances one Redis, by -redis or REDIS_URL, and they share every limit.
package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/demo"
)

func main() { demo.Run(routes) }

// routes is the service. The limits are all here, next to what they protect.
func routes(limiter *core.Limiter, proxies []string) http.Handler {
	byIP := echolimit.New(limiter, echolimit.ClientIP(echolimit.TrustedProxies(proxies...)))
	byAPIKey := echolimit.New(limiter, echolimit.Header("X-API-Key"))

	e := echo.New()
	e.Use(middleware.Recover())
	e.GET("/healthz", answer("ok"))
	e.GET("/", echo.WrapHandler(demo.Handler())) // shows the limits at work; leave it out of a service of your own

	api := e.Group("/api", byIP.Limit(core.PerMinute("api", 100)))
	api.GET("/search", answer("results"), byIP.Limit(core.Limit{Name: "search", Max: 10, Window: 10 * time.Second}))
	api.POST("/login", answer("welcome"), byIP.Limit(core.PerMinute("login", 5)))
	api.GET("/report", answer("report"), byAPIKey.LimitFunc(reportLimits))
	api.GET("/export", echo.WrapHandler(demo.Export()), byIP.Limit(core.InFlight("export", 2, 30*time.Second))) // slow
	return e
}

// reportLimits gives paying customers more.
func reportLimits(c echo.Context) ([]core.Limit, error) {
	if strings.HasPrefix(c.Request().Header.Get("X-API-Key"), "pro-") {
		return []core.Limit{core.PerMinute("report", 30)}, nil
	}
	return []core.Limit{core.PerMinute("report", 3)}, nil
}

func answer(text string) echo.HandlerFunc {
	return func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/json", fmt.Appendf(nil, "{\"answer\":%q}\n", text))
	}
}
