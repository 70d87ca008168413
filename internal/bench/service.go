package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"

	"github.com/gin-gonic/gin"
	ululegin "github.com/ulule/limiter/v3/drivers/middleware/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// The scenario service measures what users notice: a Gin server in a child process, to which clients in this process
// send requests over keep-alive connections.
const (
	connections = 64
	clients     = 10_000
	apiKey      = "X-API-Key"
)

// app is a contender that serves HTTP.
type app struct {
	limit         gin.HandlerFunc // nil if there is no limit
	withRemaining gin.HandlerFunc // limit for the path /left, which sets fields; nil if limit sets fields itself
	fields        []string        // of the response to an admitted request
	diagnostics   func() diagnostics
	close         func()
}

var services = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "2 fields", app: func(s setup) (*app, error) {
		warnings := &warningCounter{}
		l, err := core.Connect(s.url(), core.WithPrefix(s.prefix), core.WithLogger(slog.New(warnings)))
		if err != nil {
			return nil, err
		}
		return &app{
			limit:       ginlimit.New(l, ginlimit.Header(apiKey)).Limit(limitOf(s)),
			fields:      []string{"RateLimit", "RateLimit-Policy"},
			diagnostics: func() diagnostics { return diagnostics{Warnings: warnings.counted()} },
			close:       func() { l.Close() },
		}, nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "3 fields", app: func(s setup) (*app, error) {
		l, close, err := ululeOnRedis(s, plain)
		if err != nil {
			return nil, err
		}
		byKey := ululegin.WithKeyGetter(func(c *gin.Context) string { return c.GetHeader(apiKey) })
		return &app{
			limit:  ululegin.NewMiddleware(l, byKey),
			fields: []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"},
			close:  close,
		}, nil
	}},
	{name: rueidisLimiter.name, module: rueidisLimiter.module, how: "no fields", app: func(s setup) (*app, error) {
		l, close, err := newRueidisLimiter(s)
		if err != nil {
			return nil, err
		}
		limit := func(withRemaining bool) gin.HandlerFunc {
			return func(c *gin.Context) {
				r, err := l.Allow(c.Request.Context(), c.GetHeader(apiKey))
				switch {
				case err != nil:
					c.AbortWithStatus(http.StatusInternalServerError)
				case !r.Allowed:
					c.AbortWithStatus(http.StatusTooManyRequests)
				case withRemaining:
					c.Header("X-RateLimit-Remaining", strconv.FormatInt(r.Remaining, 10))
				}
			}
		}
		return &app{limit: limit(false), withRemaining: limit(true), close: close}, nil
	}},
	{name: "bare Gin", module: "github.com/gin-gonic/gin", how: "no limit", reference: true,
		app: func(setup) (*app, error) {
			return &app{close: func() {}}, nil
		}},
}

// handler returns the service, in which /left has fields even if the contender sets none.
func (a *app) handler() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	ok := func(c *gin.Context) { c.String(http.StatusOK, "ok") }
	switch {
	case a.limit == nil:
		r.GET("/", ok)
	case a.withRemaining == nil:
		r.GET("/", a.limit, ok)
		r.GET("/left", a.limit, ok)
	default:
		r.GET("/", a.limit, ok)
		r.GET("/left", a.withRemaining, ok)
	}
	return r
}

// checkedMax is the limit of a service that is only checked.
const checkedMax = 5

// address is the first thing that a child reports: where it listens, and the fields of its responses.
type address struct {
	Addr   string
	Fields []string
}

// serveChild serves until the parent ends. For each line on in, it writes what it has allocated since the last one, and
// the diagnostics of its limiter.
func serveChild(c contender, s setup, check bool, in io.Reader, encoder *json.Encoder) error {
	if check {
		s.max = checkedMax
	}
	a, err := c.app(s)
	if err != nil {
		return err
	}
	defer a.close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	go http.Serve(listener, a.handler())
	if err := encoder.Encode(address{listener.Addr().String(), a.fields}); err != nil {
		return err
	}
	// The parent sends a line before the requests that are measured, and one after them.
	var before uint64
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t := turn{Mallocs: m.Mallocs - before}
		before = m.Mallocs
		if a.diagnostics != nil {
			t.Diagnostics = a.diagnostics()
		}
		if err := encoder.Encode(t); err != nil {
			return err
		}
	}
	return nil
}
