package httplimit

import (
	"io"
	"net/http"
	"time"
)

// Of the body of a refused request, Drain reads up to drainBytes, for up to drainTime: all of it if it comes at 0.4
// Mbit/s. The server's own timeouts may allow less.
const (
	drainBytes = 256 << 10
	drainTime  = 5 * time.Second
)

// Drain reads the unread body of a refused request r, before its answer is written to w.
//
// If a client or a proxy is still sending a body when the server closes the connection, it gets a reset instead of the
// answer. A proxy takes a reset for a failure of the service: nginx then sends it no request at all for ten seconds.
// The server of net/http reads as much by itself, but without a bound on time, and not if it closes the connection
// after the answer. That is the case in HTTP/1.0, which nginx speaks unless told otherwise.
//
// In HTTP/2 an answer resets only its own stream, but that is enough for HAProxy to close the connection of a client
// that speaks HTTP/1.1. A body without a length is left alone there: it may be one half of a conversation, as in gRPC or
// a WebSocket, and wait for the other.
//
// A client that expects 100 Continue sends no body without it, and reading would send it. (In HTTP/2, net/http hides
// that a client does.)
func Drain(w http.ResponseWriter, r *http.Request) {
	expects := r.ProtoAtLeast(1, 1) && r.Header.Get("Expect") != "" // in HTTP/1.0 it has no meaning
	talks := r.ProtoMajor >= 2 && r.ContentLength < 0
	if r.Body == nil || r.Body == http.NoBody || expects || talks {
		return
	}
	limit, after := drainTime, time.Time{}
	if server, _ := r.Context().Value(http.ServerContextKey).(*http.Server); server != nil {
		if server.ReadTimeout > 0 {
			limit, after = min(limit, server.ReadTimeout), time.Now().Add(server.ReadTimeout)
		}
		if server.WriteTimeout > 0 { // which has begun when the header was read, and must leave time for the answer
			limit = min(limit, server.WriteTimeout/2)
		}
	}
	control := http.NewResponseController(w)
	// Behind a writer that hides the connection, only the server's ReadTimeout bounds the time, as it does in net/http.
	_ = control.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.CopyN(io.Discard, r.Body, drainBytes+1); err == io.EOF {
		// While the request is being answered, the server reads only to notice that the client has left. But there may be
		// more of the body than middleware lets be read, as behind an io.LimitReader, and then the server reads that.
		_ = control.SetReadDeadline(after)
	}
	// Otherwise the deadline stays, so that it also bounds what the server reads of the rest.
}
