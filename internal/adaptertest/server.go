package adaptertest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// startServer starts a server for app with a handler for Handle. It returns its URL and a client that speaks protocol.
func startServer(t *testing.T, app http.Handler, protocol string, handler http.HandlerFunc) (string, *http.Client) {
	server, accepted := httptest.NewUnstartedServer(app), new(http.Protocols)
	protocols[protocol](accepted)
	server.Config.Protocols = accepted
	server.Config.BaseContext = func(net.Listener) context.Context { return withHandler(context.Background(), handler) }
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{Protocols: accepted, ExpectContinueTimeout: time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	return server.URL, &http.Client{Transport: transport}
}
