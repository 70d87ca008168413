// The example is a small API behind exactlimit, in Gin:
//
//	go run ./ginlimit/example
//	curl -i http://127.0.0.1:8080/api/search
//
// Give several instances one Redis, by -redis or REDIS_URL, and they share every limit.
package main

import (
	"cmp"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/demo"
)

func main() {
	gin.SetMode(cmp.Or(os.Getenv(gin.EnvGinMode), gin.ReleaseMode))
	demo.Run(routes)
}

// routes is the service. The limits are all here, next to what they protect.
func routes(limiter *core.Limiter, proxies []string) http.Handler {
	byIP := ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies(proxies...)))
	byAPIKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"))

	r := gin.Default() // its logger shows why a request was answered 503
	r.GET("/healthz", answer("ok"))
	r.GET("/", gin.WrapH(demo.Handler())) // shows the limits at work; leave it out of a service of your own

	api := r.Group("/api", byIP.Limit(core.PerMinute("api", 100)))
	api.GET("/search", byIP.Limit(core.Limit{Name: "search", Max: 10, Window: 10 * time.Second}), answer("results"))
	api.POST("/login", byIP.Limit(core.PerMinute("login", 5)), answer("welcome"))
	api.GET("/report", byAPIKey.LimitFunc(reportLimits), answer("report"))
	api.GET("/export", byIP.Limit(core.InFlight("export", 2, 30*time.Second)), gin.WrapH(demo.Export())) // slow
	return r
}

// reportLimits gives paying customers more.
func reportLimits(c *gin.Context) ([]core.Limit, error) {
	if strings.HasPrefix(c.GetHeader("X-API-Key"), "pro-") {
		return []core.Limit{core.PerMinute("report", 30)}, nil
	}
	return []core.Limit{core.PerMinute("report", 3)}, nil
}

func answer(text string) gin.HandlerFunc {
	return func(c *gin.Context) {
		c.Header("Content-Type", "application/json")
		c.String(http.StatusOK, "{\"answer\":%q}\n", text)
	}
}
