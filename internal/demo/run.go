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

// Run is the main function of an example: it parses the flags, and serves routes until a signal stops it. It calls
// routes with the limiter, and with the trusted proxies in front of the server.
func Run(routes func(limiter *core.Limiter, proxies []string) http.Handler) {
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	redis := flag.String("redis", os.Getenv("REDIS_URL"),
		"Redis `URL`, such as redis://localhost:6379; empty keeps limits in memory")
	proxies := flag.String("proxies", "", "trusted proxies in front of the server, such as 10.0.0.0/8,fd00::/8")
	flag.Parse()
	trusted := strings.FieldsFunc(*proxies, func(r rune) bool { return r == ',' }) // empty for ""
	handler := func(limiter *core.Limiter) http.Handler { return routes(limiter, trusted) }
	if err := run(*addr, *redis, handler); err != nil {
		golog.Fatal(err)
	}
}

// newServer returns the server of the service. Its timeouts close the connections that no limit counts: those on which
// a client sends no request, or only part of one. Without them a client could keep any number of connections open.
func newServer(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:     handler,
		ReadTimeout: 10 * time.Second, // for the header and the body
		IdleTimeout: 2 * time.Minute,  // longer than most proxies', so that the proxy closes first
		Protocols:   new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true) // for proxies that use it
	return server
}

// run serves until a signal stops it, and then finishes the requests in flight.
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
	fmt.Printf("listening on http://%s, logs kept in %s\n", listener.Addr(), storage(redis))

	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stop() // a second signal kills the process
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// storage describes where the logs are, for the line that a server prints at start.
func storage(redis string) string {
	if redis == "" {
		return "this process (set REDIS_URL or -redis to share them)"
	}
	u, _ := url.Parse(redis) // Connect has parsed it
	return "Redis at " + u.Host
}
