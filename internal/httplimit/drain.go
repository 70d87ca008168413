package httplimit

import (
	"io"
	"net/http"
	"time"
)

// Drain reads up to drainBytes of a refused request's body, for up to drainTime: the whole body if it arrives at 0.4
// Mbit/s. The server's own timeouts may allow less.
const (
	drainBytes = 256 << 10
	drainTime  = 5 * time.Second
)

// Drain reads the unread body of a refused request r, before the response is written to w.
//
// If a client or a proxy is still sending a body when the server closes the connection, it gets a reset instead of the
// response. A proxy takes a reset for a failure of the service: nginx then sends no request to it for ten seconds. The
// server of net/http reads as much by itself, but without a bound on time, and not if it closes the connection after
// the response. That is the case in HTTP/1.0, which nginx speaks by default.
//
// In HTTP/2 a response resets only its own stream, but that is enough for HAProxy to close the connection of a client
// that speaks HTTP/1.1. A body without a length is left alone there: it may be one half of a conversation, as in gRPC
// or a WebSocket, and wait for the other half.
//
// A client that expects 100 Continue sends no body before it, and reading the body would send it. (In HTTP/2, net/http
// hides that a client expects it.)
func Drain(w http.ResponseWriter, r *http.Request) {
	expectsContinue := r.ProtoAtLeast(1, 1) && r.Header.Get("Expect") != "" // has no meaning in HTTP/1.0
	bidirectional := r.ProtoMajor >= 2 && r.ContentLength < 0
	if r.Body == nil || r.Body == http.NoBody || expectsContinue || bidirectional {
		return
	}
	timeout, deadlineAfter := drainTime, time.Time{}
	if server, _ := r.Context().Value(http.ServerContextKey).(*http.Server); server != nil {
		if server.ReadTimeout > 0 {
			timeout, deadlineAfter = min(timeout, server.ReadTimeout), time.Now().Add(server.ReadTimeout)
		}
		if server.WriteTimeout > 0 { // began when the header was read, and must leave time for the response
			timeout = min(timeout, server.WriteTimeout/2)
		}
	}
	control := http.NewResponseController(w)
	// Behind a writer that hides the connection, only the server's ReadTimeout bounds the time, as it does in net/http.
	_ = control.SetReadDeadline(time.Now().Add(timeout))
	if _, err := io.CopyN(io.Discard, r.Body, drainBytes+1); err == io.EOF {
		// While a handler runs, the server reads only to notice that the client has left. But middleware may hide the
		// rest of the body, as an io.LimitReader does, and then the server reads that.
		_ = control.SetReadDeadline(deadlineAfter)
	}
	// Otherwise the deadline stays, so that it also bounds how long the server reads the rest.
}
