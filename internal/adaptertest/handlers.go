package adaptertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/exactlimit/exactlimit/core"
)

// Status is an error to which middleware responds with a status.
type Status int

func (s Status) Error() string { return "status " + strconv.Itoa(int(s)) }

// Render responds to an error and shows all of it, as middleware of a service may do.
func Render(w http.ResponseWriter, err error) {
	status := Status(http.StatusBadRequest)
	errors.As(err, &status)
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(int(status))
	io.WriteString(w, "rendered: "+err.Error())
}

// OK is the handler of most routes.
func OK(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, "ok")
}

// NotFound is the handler of requests that match no route.
func NotFound(w http.ResponseWriter) { http.Error(w, "not here", http.StatusNotFound) }

// Begin begins a response, before the limiter decides.
func Begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, "begun, ")
}

// Recovered responds to a request whose handler has panicked.
func Recovered(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusInternalServerError)
	io.WriteString(w, "recovered")
}

// Upgrade hijacks the connection, as libraries for WebSockets do, and writes the fields that are set.
func Upgrade(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hello\r\n")
	w.Header().Write(conn)
	fmt.Fprint(conn, "\r\nhello")
}

// Denied is an example of a function for OnDenied that a service may have.
func Denied(w http.ResponseWriter, d core.Decision) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(420)
	fmt.Fprintf(w, "%s allows %d per %v, come back in %v\n", d.Limit.Name, d.Limit.Max, d.Limit.Window, d.RetryAfter)
}

// Refuse is the response that a function of the service writes instead of the limiter.
func Refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusForbidden)
	io.WriteString(w, "no plan")
}

type handlerKey struct{}

// Handle calls the handler in the context of the request, or OK if there is none.
func Handle(w http.ResponseWriter, r *http.Request) {
	if handler, ok := r.Context().Value(handlerKey{}).(http.HandlerFunc); ok {
		handler(w, r)
	} else {
		OK(w)
	}
}

// withHandler returns a context with the handler that Handle calls.
func withHandler(ctx context.Context, handler http.HandlerFunc) context.Context {
	return context.WithValue(ctx, handlerKey{}, handler)
}
