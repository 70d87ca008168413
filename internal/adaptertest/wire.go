package adaptertest

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// wire is an HTTP server and its clients, joined by pipes, so that a clock that stands still stands still for them too.
type wire struct {
	t         testing.TB
	conns     chan net.Conn
	server    *http.Server
	protocols http.Protocols
}

var protocols = map[string]func(*http.Protocols){
	"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
	"h2c":      func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
}

// serve runs a server until it is closed.
func serve(t testing.TB, handler http.Handler, protocol string) *wire {
	w := &wire{t: t, conns: make(chan net.Conn)}
	protocols[protocol](&w.protocols)
	w.server = &http.Server{Handler: handler, Protocols: &w.protocols, ErrorLog: log.New(io.Discard, "", 0)}
	go w.server.Serve(w)
	return w
}

// Accept, Addr and Close make it a net.Listener.
func (w *wire) Accept() (net.Conn, error) {
	conn, ok := <-w.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (w *wire) Addr() net.Addr { return addr("pipe") }
func (w *wire) Close() error {
	close(w.conns)
	return nil
}

// addr is an address as net/http shows it. That of a socket without addresses, a Unix socket, is "@".
type addr string

func (a addr) String() string { return string(a) }
func (a addr) Network() string {
	if a == "@" {
		return "unix"
	}
	return "tcp"
}

// from is a connection that comes from an address.
type from struct {
	net.Conn
	addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }
func (f from) LocalAddr() net.Addr  { return f.addr } // of the same network, which is what matters

// send sends a request on a connection of its own, and returns the response with all of its body.
func (w *wire) send(r request) (*http.Response, string) {
	transport := &http.Transport{
		Protocols: &w.protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			peer := addr(r.from)
			if peer == "" {
				peer = "192.0.2.1:1234"
			}
			w.conns <- from{server, peer}
			return client, nil
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(r.method, "http://example.com"+r.target, nil)
	require.NoError(w.t, err)
	for line := range strings.Lines(r.header) {
		name, value, _ := strings.Cut(line, ":")
		req.Header[name] = append(req.Header[name], strings.TrimSpace(value)) // in its own case
	}
	response, err := transport.RoundTrip(req)
	require.NoError(w.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	return response, string(body)
}
