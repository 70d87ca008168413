package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
)

// No peer on a Unix socket has an address, even if its socket's file is named like one. TrustedProxies("unix") trusts
// the peer as a proxy.
func TestUnixSocket(t *testing.T) {
	for _, row := range []struct {
		name     string
		trusted  []string
		header   string
		statuses []int // of three requests under a limit of one
	}{
		{"no proxy", nil, "", []int{500, 500, 500}},
		{"another proxy", []string{"203.0.113.7"}, "198.51.100.1", []int{500, 500, 500}},
		{"the proxy", []string{"unix"}, "198.51.100.1", []int{200, 429, 429}},
		{"the proxy without a header", []string{"unix"}, "", []int{500, 500, 500}},
	} {
		for _, adapter := range adapters.All {
			t.Run(row.name+"/"+adapter.Dir, func(t *testing.T) {
				limiter, err := core.NewInProcess()
				require.NoError(t, err)
				defer limiter.Close()
				listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
				require.NoError(t, err)
				server := &http.Server{Handler: adapter.Keys(limiter, core.PerHour("unix", 1), row.trusted, io.Discard)}
				go server.Serve(listener)
				defer server.Close()
				for _, status := range row.statuses {
					got := sendOnUnix(t, listener.Addr(), row.header)
					assert.Equal(t, status, got)
				}
			})
		}
	}
}

// sendOnUnix sends a request from a socket that is bound to a file named like an address.
func sendOnUnix(t *testing.T, addr net.Addr, forwardedFor string) int {
	t.Chdir(t.TempDir())
	local := &net.UnixAddr{Name: "203.0.113.7:1234", Net: "unix"}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.DialUnix("unix", local, addr.(*net.UnixAddr))
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequest("GET", "http://unix/address", nil)
	require.NoError(t, err)
	if forwardedFor != "" {
		r.Header.Set("X-Forwarded-For", forwardedFor)
	}
	response, err := transport.RoundTrip(r)
	require.NoError(t, err)
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response.StatusCode
}
