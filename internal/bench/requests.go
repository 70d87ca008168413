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

// The contenders in this file handle whole requests: a router, a limiter in this process and a handler that sends 200.
// Their keys are addresses.

var throughGin = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "2 fields", open: func(s setup) (*limiter, error) {
		l, err := core.NewInProcess()
		if err != nil {
			return nil, err
		}
		handler := ginApp(ginlimit.New(l, ginlimit.ClientIP()).Limit(limitOf(s)))
		return serve(handler, func() { l.Close() }, "Ratelimit", "Ratelimit-Policy"), nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "3 fields",
		open: func(s setup) (*limiter, error) {
			handler := ginApp(ululegin.NewMiddleware(ululeOf(ululememory.NewStore(), s)))
			return serve(handler, func() {}, "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), nil
		}},
	{name: "bare Gin", module: "github.com/gin-gonic/gin", how: "no limit", reference: true,
		open: func(setup) (*limiter, error) {
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
	{name: "Echo's limiter", module: "github.com/labstack/echo/v4", how: "no fields",
		open: func(s setup) (*limiter, error) {
			return serve(echoApp(middleware.RateLimiter(echoStore(s))), func() {}), nil
		}},
	{name: "bare Echo", module: "github.com/labstack/echo/v4", how: "no limit", reference: true,
		open: func(setup) (*limiter, error) {
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

// serve returns a limiter that sends whole requests to handler, and checks that the responses have these fields. Each
// goroutine reuses its own request and recorder.
func serve(handler http.Handler, close func(), fields ...string) *limiter {
	each := func() allow {
		request, _ := http.NewRequest("GET", "/", nil)
		recorder := &recorder{fields: http.Header{}}
		checked := false
		return func(_ context.Context, address string) (bool, error) {
			request.RemoteAddr = address
			recorder.status = 0
			clear(recorder.fields)
			handler.ServeHTTP(recorder, request)
			if recorder.status == http.StatusTooManyRequests {
				return false, nil
			}
			// The names are checked once. Afterwards their number is enough, which costs the measured requests nothing.
			for i := 0; i < len(fields) && !checked; i++ {
				if recorder.fields[fields[i]] == nil {
					return false, fmt.Errorf("the response has no field %s", fields[i])
				}
			}
			checked = true
			if recorder.status != http.StatusOK || len(recorder.fields) != len(fields) {
				return false, fmt.Errorf("the response has status %d and fields %v", recorder.status, recorder.fields)
			}
			return true, nil
		}
	}
	return &limiter{allow: each(), close: close, each: each}
}

// recorder is a ResponseWriter that is reused, so that it does not allocate.
type recorder struct {
	fields http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.fields }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
