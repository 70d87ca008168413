// Package adapters is the list of all adapters. Tests of documentation, imports, examples and attempts at evasion
// use it to test each adapter.
package adapters

import (
	"io"
	"net/http"

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
}

// All has every adapter.
var All = []Adapter{
	{"ginlimit", "github.com/gin-gonic/gin", ginKeys, ginPage, ginLimited},
	{"echolimit", "github.com/labstack/echo/v4", echoKeys, echoPage, echoLimited},
	{"echolimit/v5", "github.com/labstack/echo/v5", echoV5Keys, echoV5Page, echoV5Limited},
}

const (
	body   = `{"answer":"yours"}`     // of an admitted request
	secret = "hunter2-of-the-service" // of HashKey for some values
)
