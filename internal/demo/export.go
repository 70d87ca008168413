package demo

import (
	"io"
	"net/http"
	"time"
)

// Export answers with a document that takes three seconds to write, so that several requests are in flight at once. It
// sends the header first, which tells the page that the request was admitted.
func Export() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{\"answer\":")
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(3 * time.Second):
			io.WriteString(w, "\"export\"}\n")
		case <-r.Context().Done(): // the client has disconnected
		}
	})
}
