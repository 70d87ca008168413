package adaptertest

import (
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// HangsUp checks that a server closes the connection of a client that stops sending. A limiter cannot, because it sees
// only requests, and such a client makes none.
func HangsUp(t *testing.T, newServer func() *http.Server) {
	const head = "POST /api/login HTTP/1.1\r\nHost: example.com\r\n"
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, sent := range map[string]string{
		"before it sends anything": "",
		"within the header":        "GET /healthz HTTP/1.1\r\nHost: exam",
		"after the header":         head + "Content-Length: 5\r\n\r\n",
		"within the body":          head + "Content-Length: 5\r\n\r\nhal",
		"within a chunk":           head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhal",
		"after a request":          "GET /healthz HTTP/1.1\r\nHost: example.com\r\n\r\n",
		"within HTTP/2's preface":  preface[:20],
		"after HTTP/2's settings":  preface + settings,
		"within a frame of HTTP/2": preface + settings[:5],
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener, server := &pipeServer{conns: make(chan net.Conn)}, newServer()
				go server.Serve(listener)
				defer server.Close()
				client, accepted := net.Pipe()
				defer client.Close()
				listener.conns <- pipeConn{accepted, "192.0.2.1:1234"}
				go io.WriteString(client, sent)
				require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Hour))) // no real time: the clock is fake
				_, err := io.Copy(io.Discard, client)
				assert.NoError(t, err, "the connection is still open")
			})
		})
	}
}
