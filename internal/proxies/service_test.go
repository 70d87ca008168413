package proxies

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
)

// limit is the limit of each client of a service.
var limit = core.PerHour("site", 3)

// service is a limited service on loopback. It responds with "ok". On /ws it echoes the messages of a WebSocket. On
// /events it sends a second event only when the client has acknowledged the first one.
type service struct {
	limiter      *core.Limiter
	address      string // as in the configuration of a proxy
	connections  atomic.Int32
	acknowledged chan struct{}

	mu  sync.Mutex
	log bytes.Buffer // of the limiter
}

// network is how a proxy reaches a service.
type network string

const (
	tcp           network = "TCP"
	unixSocket    network = "Unix socket"
	h2c           network = "h2c"
	proxyProtocol network = "PROXY protocol"
)

// serve starts a service, which runs until the end of the test.
func serve(t *testing.T, adapter adapters.Adapter, on network) *service {
	t.Helper()
	s := &service{acknowledged: make(chan struct{})}
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(s, nil))))
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	s.limiter = limiter

	name, address, trusted := "tcp", "127.0.0.1:0", []string{"127.0.0.1"}
	if on == unixSocket {
		name, address, trusted = "unix", filepath.Join(t.TempDir(), "socket"), []string{"unix"}
	}
	listener, err := net.Listen(name, address)
	require.NoError(t, err)
	s.address = listener.Addr().String()
	if on == proxyProtocol { // connections then have the address of the client, so no header is trusted
		listener, trusted = &proxyproto.Listener{Listener: listener}, nil
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	routes.HandleFunc("/ws", repeat)
	routes.HandleFunc("/events", s.events)
	server := &http.Server{
		Handler:   adapter.Limited(limiter, limit, trusted, routes),
		Protocols: new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.connections.Add(1)
			}
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(on == h2c)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return s
}

// Write makes a service the writer of its log.
func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// logged returns the log.
func (s *service) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// used returns how many requests of the client at ip are counted.
func (s *service) used(t *testing.T, ip string) int {
	t.Helper()
	d, err := s.limiter.Peek(context.Background(), "ip:"+ip, limit)
	require.NoError(t, err)
	return limit.Max - d.Remaining
}

// repeat echoes a message, as in the documentation of gorilla/websocket, and passes on the fields of the response,
// as in ginlimit/README.md.
func repeat(w http.ResponseWriter, r *http.Request) {
	conn, err := new(websocket.Upgrader).Upgrade(w, r, w.Header())
	if err != nil {
		return // Upgrade has written the response
	}
	defer conn.Close()
	kind, message, err := conn.ReadMessage()
	if err == nil {
		conn.WriteMessage(kind, message)
	}
}

func (s *service) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	for i := range 2 {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		if i == 0 {
			select {
			case <-s.acknowledged:
			case <-r.Context().Done():
				return
			}
		}
	}
}
