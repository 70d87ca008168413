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

// pipeServer is an HTTP server whose connections are pipes, so that it runs on the fake clock of synctest.
type pipeServer struct {
	t         testing.TB
	conns     chan net.Conn
	http      *http.Server
	protocols http.Protocols
}

var protocols = map[string]func(*http.Protocols){
	"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
	"h2c":      func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
}

// serve starts a server, which runs until it is closed.
func serve(t testing.TB, handler http.Handler, protocol string) *pipeServer {
	s := &pipeServer{t: t, conns: make(chan net.Conn)}
	protocols[protocol](&s.protocols)
	s.http = &http.Server{Handler: handler, Protocols: &s.protocols, ErrorLog: log.New(io.Discard, "", 0)}
	go s.http.Serve(s)
	return s
}

// Accept, Addr and Close make a pipeServer a net.Listener.
func (s *pipeServer) Accept() (net.Conn, error) {
	conn, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *pipeServer) Addr() net.Addr { return addr("pipe") }

func (s *pipeServer) Close() error {
	close(s.conns)
	return nil
}

// addr is an address as net/http shows it. The address "@" is that of a Unix socket's peer.
type addr string

func (a addr) String() string { return string(a) }

func (a addr) Network() string {
	if a == "@" {
		return "unix"
	}
	return "tcp"
}

// pipeConn is a connection from an address.
type pipeConn struct {
	net.Conn
	addr
}

func (c pipeConn) RemoteAddr() net.Addr { return c.addr }
func (c pipeConn) LocalAddr() net.Addr  { return c.addr } // only its network matters

// send sends a request on a connection of its own, and returns the response with all of its body.
func (s *pipeServer) send(r request) (*http.Response, string) {
	transport := &http.Transport{
		Protocols: &s.protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			peer := addr(r.from)
			if peer == "" {
				peer = "192.0.2.1:1234"
			}
			s.conns <- pipeConn{server, peer}
			return client, nil
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(r.method, "http://example.com"+r.target, nil)
	require.NoError(s.t, err)
	for line := range strings.Lines(r.header) {
		name, value, _ := strings.Cut(line, ":")
		req.Header[name] = append(req.Header[name], strings.TrimSpace(value)) // not in canonical form
	}
	response, err := transport.RoundTrip(req)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response, string(body)
}
