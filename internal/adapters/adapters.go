// Package adapters is the one list of the adapters. What is tested of each, such as its documentation, its imports, its
// example and what attackers try, is tested of all that are in it.
package adapters

import (
	"io"
	"net/http"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Adapter is a package that puts limits into a framework. Its example is in the folder example of its own.
type Adapter struct {
	Dir       string // in the module
	Framework string // what it imports

	// Keys returns a service in which one limit is behind each key function: the route /address counts by ClientIP behind
	// proxies, and the others by what they are called. The framework logs to log.
	Keys func(limiter *core.Limiter, limit core.Limit, proxies []string, log io.Writer) http.Handler

	// Page returns a service with the route /, limited by Header("X-API-Key"), for pages of an origin. It answers what is
	// denied with the text denied.
	Page func(limiter *core.Limiter, limit core.Limit, origin string) http.Handler

	// Limited returns a service that handler answers, at every path and limited by ClientIP behind proxies.
	Limited func(limiter *core.Limiter, limit core.Limit, proxies []string, handler http.Handler) http.Handler

	// Guarded returns a service that handler answers, for every method. The routes /guarded/address, /guarded/header and
	// /guarded/bearer count what the handler answers with 403, by ClientIP behind proxies, by Header("X-API-Key") and by
	// BearerToken. The routes /open/address and so on count all requests by the same keys, in the same logs, up to a
	// thousand times as many and without a ban. The routes /single/address and so on are those that are guarded, behind
	// middleware that admits one request of the same key at a time.
	Guarded func(limiter *core.Limiter, guard core.Limit, proxies []string, handler http.Handler) http.Handler
}

// All is every adapter.
var All = []Adapter{
	{"ginlimit", "github.com/gin-gonic/gin", ginKeys, ginPage, ginLimited, ginGuarded},
	{"echolimit", "github.com/labstack/echo/v4", echoKeys, echoPage, echoLimited, echoGuarded},
	{"echolimit/v5", "github.com/labstack/echo/v5", echoV5Keys, echoV5Page, echoV5Limited, echoV5Guarded},
}

const (
	body   = `{"answer":"yours"}`     // of what is admitted
	secret = "hunter2-of-the-service" // which some values are hashed with
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
