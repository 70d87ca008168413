package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	ululegin "github.com/ulule/limiter/v3/drivers/middleware/gin"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// Whole requests through a router, a limiter in this process and a handler that says 200. Their keys are addresses.

var throughGin = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "2 fields", open: func(s setup) (*limiter, error) {
		l, err := core.NewInProcess()
		if err != nil {
			return nil, err
		}
		handler := ginApp(ginlimit.New(l, ginlimit.ClientIP()).Limit(limitOf(s)))
		return serve(handler, func() { l.Close() }, "Ratelimit", "Ratelimit-Policy"), nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "3 fields", open: func(s setup) (*limiter, error) {
		handler := ginApp(ululegin.NewMiddleware(ululeOf(ululememory.NewStore(), s)))
		return serve(handler, func() {}, "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), nil
	}},
	{name: "bare Gin", module: "github.com/gin-gonic/gin", how: "no limit", reference: true, open: func(setup) (*limiter, error) {
		return serve(ginApp(), func() {}), nil
	}},
}

var throughEcho = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "2 fields", open: func(s setup) (*limiter, error) {
		l, err := core.NewInProcess()
		if err != nil {
			return nil, err
		}
		handler := echoApp(echolimit.New(l, echolimit.ClientIP()).Limit(limitOf(s)))
		return serve(handler, func() { l.Close() }, "Ratelimit", "Ratelimit-Policy"), nil
	}},
	{name: "Echo's limiter", module: "github.com/labstack/echo/v4", how: "no fields", open: func(s setup) (*limiter, error) {
		return serve(echoApp(middleware.RateLimiter(echoStore(s))), func() {}), nil
	}},
	{name: "bare Echo", module: "github.com/labstack/echo/v4", how: "no limit", reference: true, open: func(setup) (*limiter, error) {
		return serve(echoApp(), func() {}), nil
	}},
}

func ginApp(limit ...gin.HandlerFunc) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(limit...)
	r.GET("/", func(c *gin.Context) { c.Status(http.StatusOK) })
	return r
}

func echoApp(limit ...echo.MiddlewareFunc) http.Handler {
	e := echo.New()
	e.Use(limit...)
	e.GET("/", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	return e
}

// serve makes a limiter that asks with whole requests, whose answers have these fields. Each goroutine uses a request and
// an answer of its own again and again.
func serve(handler http.Handler, close func(), fields ...string) *limiter {
	each := func() allow {
		request, _ := http.NewRequest("GET", "/", nil)
		answer := &answer{fields: http.Header{}}
		seen := false
		return func(_ context.Context, address string) (bool, error) {
			request.RemoteAddr = address
			answer.status = 0
			clear(answer.fields)
			handler.ServeHTTP(answer, request)
			if answer.status == http.StatusTooManyRequests {
				return false, nil
			}
			// Once by name; from then on their number is enough, and costs the requests that are measured nothing.
			for i := 0; i < len(fields) && !seen; i++ {
				if answer.fields[fields[i]] == nil {
					return false, fmt.Errorf("the answer has no field %s", fields[i])
				}
			}
			seen = true
			if answer.status != http.StatusOK || len(answer.fields) != len(fields) {
				return false, fmt.Errorf("answered %d with %v", answer.status, answer.fields)
			}
			return true, nil
		}
	}
	return &limiter{allow: each(), close: close, each: each}
}

// answer is a ResponseWriter that is used again and again, so that what is measured is the server's.
type answer struct {
	fields http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.fields }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }
