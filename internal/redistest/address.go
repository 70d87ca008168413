package redistest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Address is an address of one server after the other, such as a virtual IP address or a load balancer. A connection is
// to the server at the time at which it is made.
type Address struct {
	Addr string // host:port

	listener net.Listener
	all      sync.WaitGroup
	mu       sync.Mutex
	server   *Server
	open     map[net.Conn]bool
	closed   bool
}

// StartAddress returns an address of a server, until the end of the test.
func StartAddress(t testing.TB, server *Server) *Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &Address{Addr: l.Addr().String(), listener: l, server: server, open: map[net.Conn]bool{}}
	a.all.Go(a.accept)
	t.Cleanup(a.close)
	return a
}

// URL returns the address as a URL for core.Connect.
func (a *Address) URL() string { return "redis://" + a.Addr }

// Point makes a the address of another server. Present connections stay.
func (a *Address) Point(server *Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server
}

func (a *Address) accept() {
	for {
		client, err := a.listener.Accept()
		if err != nil {
			return
		}
		a.all.Go(func() { a.forward(client) })
	}
}

// forward forwards what comes from either side until one of them closes.
func (a *Address) forward(client net.Conn) {
	defer a.drop(client)
	a.mu.Lock()
	to := a.server.Addr
	a.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil || !a.keep(client, server) {
		return
	}
	defer a.drop(server)
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() {
			io.Copy(to, from)
			from.Close()
			to.Close()
		})
	}
	both.Wait()
}

// keep reports whether the address is not closed yet. If so, close ends the connections.
func (a *Address) keep(conns ...net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, conn := range conns {
		if a.closed {
			conn.Close()
		} else {
			a.open[conn] = true
		}
	}
	return !a.closed
}

func (a *Address) drop(conn net.Conn) {
	conn.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, conn)
}

func (a *Address) close() {
	a.listener.Close()
	a.mu.Lock()
	a.closed = true
	for conn := range a.open {
		conn.Close()
	}
	a.mu.Unlock()
	a.all.Wait()
}
