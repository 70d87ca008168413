// The example is a small API behind exactlimit, in Echo:
//
//	go run ./echolimit/example
//	curl -i http://127.0.0.1:8080/api/search
//
// Give several instances one Redis, by -redis or REDIS_URL, and they share every limit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/demo"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	redis := flag.String("redis", os.Getenv("REDIS_URL"), "what keeps the logs, such as redis://localhost:6379; empty: this process")
	proxies := flag.String("proxies", "", "the proxies in front of it, such as 10.0.0.0/8,fd00::/8, which tell who is behind them")
	flag.Parse()
	if err := run(*addr, *redis, *proxies); err != nil {
		log.Fatal(err)
	}
}

// routes is the service. The limits are all here, next to what they protect.
func routes(limiter *core.Limiter, clientIP echolimit.KeyFunc) http.Handler {
	byIP := echolimit.New(limiter, clientIP)
	byAPIKey := echolimit.New(limiter, echolimit.Header("X-API-Key"))
	byToken := echolimit.New(limiter, echolimit.BearerToken())
	byItem := echolimit.New(limiter, echolimit.Join(echolimit.PathParam("id"), clientIP))

	e := echo.New()
	e.Use(middleware.Recover())
	e.GET("/healthz", answer("ok"))
	e.GET("/", echo.WrapHandler(demo.Handler())) // shows the limits at work; leave it out of a service of your own

	api := e.Group("/api", byIP.Limit(core.PerMinute("api", 100)))
	api.GET("/search", answer("results"), byIP.Limit(core.Limit{Name: "search", Max: 10, Window: 10 * time.Second}))
	api.POST("/login", answer("welcome"), byIP.Limit(core.PerMinute("login", 5)))
	api.GET("/me", answer("you"), byToken.Limit(core.PerMinute("me", 5)))
	api.POST("/items/:id/votes", answer("counted"), byItem.Limit(core.PerMinute("vote", 2)))
	api.GET("/report", answer("report"), byAPIKey.LimitFunc(reportLimits))
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

// newServer returns the server of the service. Its timeouts end what no limit counts: connections on which a client
// sends no request, or never the rest of one. Without them a client could keep as many open as it likes.
func newServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:     handler,
		ReadTimeout: 10 * time.Second, // for the header and the body
		IdleTimeout: 2 * time.Minute,  // longer than most proxies, so that they close first
		Protocols:   new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true) // as proxies speak it
	return server
}

// run serves until it is told to stop, and then finishes what it has begun.
func run(addr, redis, proxies string) error {
	limiter, err := core.Connect(redis)
	if err != nil {
		return err
	}
	defer limiter.Close()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	trusted := strings.FieldsFunc(proxies, func(r rune) bool { return r == ',' }) // none in ""
	clientIP := echolimit.ClientIP(echolimit.TrustedProxies(trusted...))
	server := newServer(routes(limiter, clientIP))
	fmt.Printf("listening on http://%s, logs kept in %s\n", listener.Addr(), keeper(redis))

	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends it at once
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func keeper(redis string) string {
	if redis == "" {
		return "this process (set REDIS_URL or -redis to share them)"
	}
	u, _ := url.Parse(redis) // Connect has read it
	return "Redis at " + u.Host
}
