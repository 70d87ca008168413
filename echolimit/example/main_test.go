package main

import (
	"net/http"
	"testing"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

func TestServerHangsUp(t *testing.T) {
	adaptertest.HangsUp(t, func(limiter *core.Limiter) *http.Server {
		return newServer(routes(limiter, echolimit.ClientIP()))
	})
}
