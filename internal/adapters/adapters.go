// Package adapters is the one list of the adapters. What is tested of each, such as its documentation, its imports, its
// example and what attackers try, is tested of all that are in it.
package adapters

import (
	"io"
	"net/http"

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
}

// All is every adapter.
var All = []Adapter{
	{"ginlimit", "github.com/gin-gonic/gin", ginKeys, ginPage, ginLimited},
	{"echolimit", "github.com/labstack/echo/v4", echoKeys, echoPage, echoLimited},
	{"echolimit/v5", "github.com/labstack/echo/v5", echoV5Keys, echoV5Page, echoV5Limited},
}

const (
	body   = `{"answer":"yours"}`     // of what is admitted
	secret = "hunter2-of-the-service" // which some values are hashed with
)
