// Package proxies tests the adapters behind real nginx and HAProxy, and Apache and Caddy where they are installed,
// with the configuration that the documentation has for them. It is a module of its own, so that what services use
// with proxies, such as gorilla/websocket, is no dependency of exactlimit.
package proxies

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// The documented configuration of each proxy works, on each network between the proxy and the service.
func TestDocumented(t *testing.T) {
	redistest.Long(t)
	for _, row := range []struct {
		proxy   proxy
		network network
		server  string // how the proxy's configuration names a service
	}{
		{nginx, tcp, "%s"},
		{nginx, unixSocket, "unix:%s"},
		{haproxy, tcp, "%s"},
		{haproxy, unixSocket, "unix@%s"},
		{haproxy, h2c, "%s proto h2"},
		{haproxy, proxyProtocol, "%s send-proxy-v2"},
		{apache, tcp, "%s"},
		{caddy, tcp, "%s"},
		{caddy, h2c, "h2c://%s"},
	} {
		for _, adapter := range adapters.All {
			t.Run(fmt.Sprintf("%s/%s/%s", row.proxy.name, row.network, adapter.Dir), func(t *testing.T) {
				s := serve(t, adapter, row.network)
				port := row.proxy.start(t, row.proxy.snippet(t), fmt.Sprintf(row.server, s.address))
				addresses(t, s, port)
				denials(t, s, port, row.network)
				uploads(t, port)
				events(t, s, port)
				if row.network != h2c { // HAProxy would need extended CONNECT, which net/http does not offer
					webSockets(t, s, port)
				}
				assert.Empty(t, s.logged())
			})
		}
	}
}

// inHTTP10 lets nginx speak HTTP/1.0 to the service, which is its default.
const inHTTP10 = `
upstream app {
    server 127.0.0.1:8080;
}

server {
    listen 80;
    location / {
        proxy_pass http://app;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
}
`

// A denied upload gets a response, and nginx continues to send requests to the service, even over HTTP/1.0. If a server
// fails, nginx sends it no requests for ten seconds.
func TestUploadsInHTTP10(t *testing.T) {
	redistest.Long(t)
	for _, adapter := range adapters.All {
		t.Run(adapter.Dir, func(t *testing.T) {
			s := serve(t, adapter, tcp)
			port := nginx.start(t, inHTTP10, s.address, s.address)
			for range limit.Max {
				assert.Equal(t, http.StatusOK, send(t, from(t, "127.0.0.3"), port, nil, 0))
			}
			uploads(t, port)
		})
	}
}

// A denied upload of any size gets a response if OnDenied reads the body, as in the documentation.
func TestUploadsThatAreRead(t *testing.T) {
	redistest.Long(t)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(ginlimit.New(limiter, ginlimit.ClientIP(ginlimit.TrustedProxies("127.0.0.1")),
		ginlimit.OnDenied(func(c *gin.Context, d core.Decision) {
			_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Now().Add(time.Minute))
			_, _ = io.CopyN(io.Discard, c.Request.Body, 100<<20) // the largest upload
			c.String(http.StatusTooManyRequests, "Upload again in %v.\n", d.RetryAfter.Round(time.Second))
		})).Limit(limit))
	r.Any("/", func(c *gin.Context) { c.String(http.StatusOK, "ok") })
	server := httptest.NewServer(r)
	defer server.Close()
	address := server.Listener.Addr().String()
	larger := strings.Replace(inHTTP10, "listen 80;", "listen 80;\n    client_max_body_size 100m;", 1)
	for _, row := range []struct {
		proxy   proxy
		snippet func(t *testing.T) string
		client  string
	}{
		{nginx, func(*testing.T) string { return larger }, "127.0.0.2"},
		{haproxy, haproxy.snippet, "127.0.0.3"},
		{apache, apache.snippet, "127.0.0.4"},
		{caddy, caddy.snippet, "127.0.0.5"},
	} {
		t.Run(row.proxy.name, func(t *testing.T) {
			port := row.proxy.start(t, row.snippet(t), address)
			for range limit.Max {
				assert.Equal(t, http.StatusOK, send(t, from(t, row.client), port, nil, 0))
			}
			for range 5 {
				assert.Equal(t, http.StatusTooManyRequests, send(t, from(t, row.client), port, nil, 5_000_000))
			}
		})
	}
}

// A proxy that adds no header is logged, once. If it passes on the headers of clients, they can choose their addresses.
func TestUndocumented(t *testing.T) {
	redistest.Long(t)
	for _, row := range []struct {
		proxy   proxy
		without string // a line of the snippet
	}{
		{nginx, "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"},
		{haproxy, "    option forwardfor\n"},
	} {
		for _, adapter := range adapters.All {
			t.Run(row.proxy.name+"/"+adapter.Dir, func(t *testing.T) {
				s := serve(t, adapter, tcp)
				snippet := row.proxy.snippet(t)
				require.Contains(t, snippet, row.without)
				port := row.proxy.start(t, strings.Replace(snippet, row.without, "", 1), s.address)
				chosen := http.Header{"X-Forwarded-For": {"198.51.100.1"}}
				assert.Equal(t, http.StatusOK, send(t, from(t, "127.0.0.2"), port, chosen, 0))
				assert.Equal(t, 1, s.used(t, "198.51.100.1"))
				assert.Empty(t, s.logged(), "the limiter cannot notice this")
				for i := range limit.Max {
					assert.Equal(t, http.StatusOK, send(t, from(t, fmt.Sprint("127.0.0.", 2+i)), port, nil, 0))
				}
				assert.Equal(t, limit.Max, s.used(t, "127.0.0.1"), "all are one client")
				assert.Equal(t, 1, strings.Count(s.logged(), "level=WARN"), s.logged())
			})
		}
	}
}

// addresses checks that each client is counted by its own address, whatever headers it sends.
func addresses(t *testing.T, s *service, port int) {
	t.Helper()
	spoofed := []string{"X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "X_Forwarded_For"}
	for i, value := range []string{"198.51.100.1", "127.0.0.1", "for=198.51.100.1"} {
		header := http.Header{}
		for _, name := range spoofed {
			header.Add(name, value)
			header.Add(name, value) // and in a second field
		}
		for _, ip := range []string{"127.0.0.2", "::1"} {
			assert.Equal(t, http.StatusOK, send(t, from(t, ip), port, header, 0))
			assert.Equal(t, i+1, s.used(t, map[string]string{"127.0.0.2": ip, "::1": "::/64"}[ip]), ip)
		}
	}
	assert.Zero(t, s.used(t, "198.51.100.1"))
	assert.Zero(t, s.used(t, "127.0.0.1"))
}

// denials checks that connections stay open after a 429: those of clients, and those of the proxy to the service.
func denials(t *testing.T, s *service, port int, on network) {
	t.Helper()
	client := from(t, "127.0.0.3")
	before := s.connections.Load()
	for i := range 10 {
		want := http.StatusOK
		if i >= limit.Max {
			want = http.StatusTooManyRequests
		}
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		assert.Equal(t, want, sendTraced(t, client, port, nil, 100, trace))
		assert.Equal(t, i > 0, reused, "the connection was closed after request %d", i-1)
	}
	if on != proxyProtocol { // HAProxy uses each connection only once
		assert.LessOrEqual(t, s.connections.Load()-before, int32(1), "the proxy opens a new connection after a 429")
	}
}

// uploads checks that a denied upload gets a response, and that other clients are not affected.
func uploads(t *testing.T, port int) {
	t.Helper()
	client := from(t, "127.0.0.3") // denied since the function denials
	for range 30 {
		assert.Equal(t, http.StatusTooManyRequests, send(t, client, port, nil, 200_000))
	}
	assert.Equal(t, http.StatusOK, send(t, from(t, "127.0.0.4"), port, nil, 0))
}

// webSockets checks that an upgrade has the fields, and that one over the limit is refused.
func webSockets(t *testing.T, s *service, port int) {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: dial("127.0.0.5")}
	for i := limit.Max - 1; i >= 0; i-- {
		conn, response, err := dialer.Dial(fmt.Sprintf("ws://127.0.0.1:%d/ws", port), nil)
		require.NoError(t, err)
		assert.Contains(t, response.Header.Get("RateLimit"), fmt.Sprintf(`"site";r=%d`, i))
		assert.Equal(t, `"site";q=3;w=3600`, response.Header.Get("RateLimit-Policy"))
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte("hello")))
		_, message, err := conn.ReadMessage()
		require.NoError(t, err)
		assert.Equal(t, "hello", string(message))
		conn.Close()
	}
	_, response, err := dialer.Dial(fmt.Sprintf("ws://127.0.0.1:%d/ws", port), nil)
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	assert.NotEmpty(t, response.Header.Get("Retry-After"))
	assert.Equal(t, limit.Max, s.used(t, "127.0.0.5"))
}

// events checks that a stream of events has the fields, and that each event arrives when it is sent.
func events(t *testing.T, s *service, port int) {
	t.Helper()
	response, err := from(t, "127.0.0.6").Get(fmt.Sprintf("http://127.0.0.1:%d/events", port))
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, `"site";r=2`, response.Header.Get("RateLimit"))
	lines := bufio.NewReader(response.Body)
	first, err := lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "data: 0\n", first)
	s.acknowledged <- struct{}{}
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	assert.Equal(t, "\ndata: 1\n\n", string(rest))
}

// from returns a client with an address of loopback.
func from(t *testing.T, ip string) *http.Client {
	transport := &http.Transport{DialContext: dial(ip)}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// dial returns a function that connects from an address of loopback.
func dial(ip string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		if strings.Contains(ip, ":") {
			to = strings.Replace(to, "127.0.0.1", "[::1]", 1)
		}
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return dialer.DialContext(ctx, network, to)
	}
}

// send posts a body of a number of bytes, and returns the status of the response.
func send(t *testing.T, client *http.Client, port int, header http.Header, bytes int) int {
	t.Helper()
	return sendTraced(t, client, port, header, bytes, nil)
}

// sendTraced is send with a trace, which may be nil.
func sendTraced(
	t *testing.T, client *http.Client, port int, header http.Header, bytes int, trace *httptrace.ClientTrace,
) int {
	t.Helper()
	ctx := t.Context()
	if trace != nil {
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(strings.Repeat("x", bytes)))
	require.NoError(t, err)
	if header != nil {
		r.Header = header
	}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response.StatusCode
}
