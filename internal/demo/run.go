package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	golog "log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Run is the main function of an example: it reads the flags, and serves routes until it is told to stop. Routes gets the
// limiter, and the proxies in front of the server whose word it takes for the addresses of clients.
func Run(routes func(limiter *core.Limiter, proxies []string) http.Handler) {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	redis := flag.String("redis", os.Getenv("REDIS_URL"),
		"Redis `URL`, such as redis://localhost:6379; empty keeps limits in memory")
	proxies := flag.String("proxies", "", "trusted proxies in front of the server, such as 10.0.0.0/8,fd00::/8")
	flag.Parse()
	trusted := strings.FieldsFunc(*proxies, func(r rune) bool { return r == ',' }) // none in ""
	if err := run(*addr, *redis, func(limiter *core.Limiter) http.Handler { return routes(limiter, trusted) }); err != nil {
		golog.Fatal(err)
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
func run(addr, redis string, routes func(*core.Limiter) http.Handler) error {
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
	server := newServer(routes(limiter))
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
