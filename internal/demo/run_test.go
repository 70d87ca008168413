package demo

import (
	"net/http"
	"testing"

	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

func TestServerHangsUp(t *testing.T) {
	adaptertest.HangsUp(t, func() *http.Server {
		return newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { adaptertest.OK(w) }))
	})
}
