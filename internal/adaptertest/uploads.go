package adaptertest

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

// uploads sends bodies to routes that refuse them, and reads no response before the body is sent. The connections are
// pipes without a buffer, so a body is sent only if the server reads it.
func uploads(t *testing.T, app App) {
	const timeout = 5 * time.Second // for which Drain reads
	body := func(kB int) string { return strings.Repeat("x", kB<<10) }
	length := func(kB int) string { return fmt.Sprintf("Content-Length: %d\r\n", kB<<10) }
	chunked := func(kB int) string {
		return strings.Repeat("400\r\n"+body(1)+"\r\n", kB) + "0\r\n\r\n"
	}
	const inChunks, closing = "Transfer-Encoding: chunked\r\n", "Connection: close\r\n"
	for _, row := range []struct {
		name     string
		target   string
		protocol string
		header   string
		body     string
		status   int
		at       time.Duration // of the response
		sent     bool          // whether the whole body is sent
	}{
		{"HTTP/1.0", "/one", "HTTP/1.0", length(200), body(200), 429, 0, true},
		{"as much as Drain reads", "/one", "HTTP/1.0", length(256), body(256), 429, 0, true},
		{"too much", "/one", "HTTP/1.0", length(300), body(300), 429, 0, false},
		{"HTTP/1.1", "/one", "HTTP/1.1", length(200), body(200), 429, 0, true},
		{"HTTP/1.1, closing", "/one", "HTTP/1.1", closing + length(200), body(200), 429, 0, true},
		{"chunks", "/one", "HTTP/1.1", inChunks, chunked(200), 429, 0, true},
		{"chunks, closing", "/one", "HTTP/1.1", closing + inChunks, chunked(200), 429, 0, true},
		{"too many chunks", "/one", "HTTP/1.1", closing + inChunks, chunked(300), 429, 0, false},
		{"OnDenied", "/denied", "HTTP/1.0", length(200), body(200), 420, 0, true},
		{"no key", "/header", "HTTP/1.0", length(200), body(200), 401, 0, true},
		{"100-continue", "/one", "HTTP/1.1", "Expect: 100-continue\r\n" + length(200), "", 429, 0, true},
		{"slow", "/one", "HTTP/1.0", length(200), body(100), 429, timeout, true},
		{"slow, HTTP/1.1", "/one", "HTTP/1.1", length(200), body(100), 429, timeout, true},
		{"slow chunks", "/one", "HTTP/1.1", inChunks, "400\r\n" + body(1), 429, timeout, true},
		{"a dry run", "/dry?cost=1", "HTTP/1.0", "X-API-Key: ann\r\n" + length(200), "", 200, 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.DiscardHandler)))
				require.NoError(t, err)
				defer limiter.Close()
				server := serve(t, app(limiter), "HTTP/1.1")
				defer server.http.Close()
				for range One.Max { // the other limits allow as many
					server.send(request{target: row.target, header: "X-API-Key: ann"})
				}
				conn, accepted := net.Pipe()
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute))) // no real time: the clock is fake
				server.conns <- pipeConn{accepted, "192.0.2.1:1234"}
				start, sent := time.Now(), make(chan error, 1)
				fmt.Fprintf(conn, "GET %s %s\r\nHost: example.com\r\n%s\r\n", row.target, row.protocol, row.header)
				go func() {
					_, err := io.Copy(conn, strings.NewReader(row.body))
					sent <- err
				}()
				synctest.Wait() // until the body is sent, or the server stops reading it
				select {
				case err := <-sent:
					require.NoError(t, err)
					assert.True(t, row.sent, "the server read too much")
				default:
					assert.False(t, row.sent, "the server did not read the body")
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				assert.Equal(t, row.status, response.StatusCode)
				assert.Equal(t, row.at, time.Since(start))
				_, err = io.Copy(io.Discard, response.Body)
				require.NoError(t, err)
			})
		})
	}
}

// uploadsBehindReaders has middleware in front of the limiter that replaces the body by a reader that ends early. The
// timeout of the server still applies: it closes the connection of a client that stops sending.
func uploadsBehindReaders(t *testing.T, app App) {
	for name, replace := range map[string]func(http.ResponseWriter, *http.Request){
		"the body itself": func(http.ResponseWriter, *http.Request) {},
		"a MaxBytesReader": func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 100)
		},
		"a LimitReader": func(_ http.ResponseWriter, r *http.Request) {
			r.Body = io.NopCloser(io.LimitReader(r.Body, 100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Second) // for the server to close its connections
				handler := app(inProcess(t))
				server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					replace(w, r)
					handler.ServeHTTP(w, r)
				}), "HTTP/1.1")
				defer server.http.Close()
				server.http.ReadTimeout = time.Minute
				conn, accepted := net.Pipe()
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(time.Hour))) // no real time: the clock is fake
				server.conns <- pipeConn{accepted, "192.0.2.1:1234"}
				go io.WriteString(conn, "GET /header HTTP/1.1\r\nHost: example.com\r\n"+
					"Transfer-Encoding: chunked\r\n\r\n"+
					"400\r\n"+strings.Repeat("x", 500))
				response, err := io.ReadAll(conn)
				require.NoError(t, err, "the connection is still open")
				assert.Contains(t, string(response), "401 Unauthorized")
			})
		})
	}
}

// slowUploads has clients that stop within the body of a request that is refused. They get a response while the
// timeouts of the server still allow it to read and write.
func slowUploads(t *testing.T, app App) {
	for _, row := range []struct {
		read, write time.Duration // the timeouts of the server
		at          time.Duration // of the response
	}{
		{0, 0, 5 * time.Second},
		{time.Minute, time.Minute, 5 * time.Second},
		{2 * time.Second, 0, 2 * time.Second},
		{0, 3 * time.Second, 1500 * time.Millisecond},
		{time.Second, 3 * time.Second, time.Second},
	} {
		t.Run(fmt.Sprint(row.read, " ", row.write), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Second) // for the server to close its connections
				server := serve(t, app(inProcess(t)), "HTTP/1.1")
				defer server.http.Close()
				server.http.ReadTimeout, server.http.WriteTimeout = row.read, row.write
				conn, accepted := net.Pipe()
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(time.Hour))) // no real time: the clock is fake
				server.conns <- pipeConn{accepted, "192.0.2.1:1234"}
				start := time.Now()
				go io.WriteString(conn, "GET /header HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nxxx")
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				defer response.Body.Close()
				assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
				assert.Equal(t, row.at, time.Since(start))
			})
		})
	}
}
