package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attackers sends requests from any address of loopback, over one protocol.
type attackers struct {
	t     *testing.T
	addr  string
	http1 bool
	mu    sync.Mutex
	h2c   map[string]*http.Transport
}

// leaves is a header of a request whose client does not wait for the response.
const leaves = "X-Leaves: yes"

// send sends a request from an address and returns the status of the response. The request is headers, which follow
// line, or a request line and headers.
func (a *attackers) send(from, line, request string) int {
	first, rest, _ := strings.Cut(request, "\n")
	method, _, found := strings.Cut(first, " ")
	isHeader := strings.Contains(method, ":") || strings.Contains(first, " : ")
	if found && !isHeader {
		line, request = first, rest
	}
	if a.http1 {
		return a.sendHTTP1(from, line, request)
	}
	return a.sendH2C(from, line, request)
}

func (a *attackers) dial(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.Dial("tcp", a.addr)
}

func (a *attackers) sendHTTP1(from, line, header string) int {
	conn, err := a.dial(from)
	require.NoError(a.t, err)
	defer conn.Close()
	if !strings.Contains(line, " HTTP/") {
		line += " HTTP/1.1"
	}
	if !strings.Contains(header, "Host:") {
		header = "Host: example.com\n" + header
	}
	if !strings.Contains(header, "Content-Length") && !strings.HasPrefix(line, "GET") {
		header += "\nContent-Length: 0"
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "%s\r\n%s\r\n\r\n", line, strings.ReplaceAll(strings.Trim(header, "\n"), "\n", "\r\n"))
	if strings.Contains(header, "chunked") {
		fmt.Fprint(conn, "0\r\n\r\n")
	}
	if strings.Contains(header, leaves) {
		return 0
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if !assert.NoError(a.t, err, line) {
		return 0
	}
	return status(response)
}

func (a *attackers) sendH2C(from, line, header string) int {
	a.mu.Lock()
	transport := a.h2c[from]
	if transport == nil {
		transport = &http.Transport{
			Protocols:   new(http.Protocols),
			DialContext: func(context.Context, string, string) (net.Conn, error) { return a.dial(from) },
		}
		transport.Protocols.SetUnencryptedHTTP2(true)
		a.h2c[from] = transport
	}
	a.mu.Unlock()
	method, target, _ := strings.Cut(line, " ")
	u, err := url.ParseRequestURI(target)
	if err != nil { // the client of net/http cannot send it, and the server would refuse it
		return http.StatusBadRequest
	}
	u.Scheme, u.Host = "http", a.addr
	r := &http.Request{Method: method, URL: u, Header: http.Header{}}
	for line := range strings.Lines(header) {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSuffix(strings.TrimPrefix(value, " "), "\n"); name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value) // HTTP/2 has only lower case, and keeps the whitespace around values
		}
	}
	if strings.Contains(header, leaves) {
		ctx, leave := context.WithCancel(context.Background())
		wrote := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { leave() }}
		if response, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx, wrote))); err == nil {
			response.Body.Close()
		}
		leave()
		return 0
	}
	response, err := transport.RoundTrip(r)
	if !assert.NoError(a.t, err, line) {
		return 0
	}
	assert.Equal(a.t, 2, response.ProtoMajor)
	return status(response)
}

// status returns the status of a response, or 0 if it is 200 but not from a handler: net/http itself responds to
// "OPTIONS *".
func status(response *http.Response) int {
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusOK && !strings.Contains(string(body), `"answer"`) {
		return 0
	}
	return response.StatusCode
}

func (a *attackers) close() {
	for _, transport := range a.h2c {
		transport.CloseIdleConnections()
	}
}
