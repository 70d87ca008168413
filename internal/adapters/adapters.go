// Package adapters is the list of all adapters. Tests of documentation, imports, examples and attempts at evasion
// use it to test each adapter.
package adapters

import (
	"io"
	"net/http"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Adapter is a package that limits the requests of a framework. Its example is in its directory example.
type Adapter struct {
	Dir       string // in the module
	Framework string // the import path of the framework

	// Keys returns a service with the same limit for each key function. The route /address counts by ClientIP behind
	// proxies, and the other routes have the names of their key functions. The framework logs to log.
	Keys func(limiter *core.Limiter, limit core.Limit, proxies []string, log io.Writer) http.Handler

	// Page returns a service with the route /, limited by Header("X-API-Key"), for pages of an origin. The body of a
	// denial is "denied".
	Page func(limiter *core.Limiter, limit core.Limit, origin string) http.Handler

	// Limited returns a service with handler at every path, limited by ClientIP behind proxies.
	Limited func(limiter *core.Limiter, limit core.Limit, proxies []string, handler http.Handler) http.Handler

	// Guarded returns a service that handler answers, for every method. The routes /guarded/address, /guarded/header
	// and /guarded/bearer count what the handler answers with 403, by ClientIP behind proxies, by Header("X-API-Key")
	// and by BearerToken. The routes /open/address and so on count all requests by the same keys, in the same logs, up
	// to a thousand times as many and without a ban. The routes /single/address and so on are those that are guarded,
	// behind middleware that admits one request of the same key at a time.
	Guarded func(limiter *core.Limiter, guard core.Limit, proxies []string, handler http.Handler) http.Handler
}

// All has every adapter.
var All = []Adapter{
	{"ginlimit", "github.com/gin-gonic/gin", ginKeys, ginPage, ginLimited, ginGuarded},
	{"echolimit", "github.com/labstack/echo/v4", echoKeys, echoPage, echoLimited, echoGuarded},
	{"echolimit/v5", "github.com/labstack/echo/v5", echoV5Keys, echoV5Page, echoV5Limited, echoV5Guarded},
}

const (
	body   = `{"answer":"yours"}`     // of an admitted request
	secret = "hunter2-of-the-service" // of HashKey for some values
)

// forbidden is the status that counts on guarded routes.
func forbidden(status int) bool { return status == http.StatusForbidden }

// unguarded returns a limit on the log of guard, with another Max and without a ban.
func unguarded(guard core.Limit) core.Limit {
	guard.Max, guard.Ban = 1000*guard.Max, 0
	return guard
}

// single is the limit of the middleware in front of guarded routes that admits one request at a time.
var single = core.InFlight("single", 1, 30*time.Second)
