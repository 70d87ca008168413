package demo

import (
	"io"
	"net/http"
	"time"
)

// Export answers with something that takes three seconds to make, so that several are under way at once. It has begun
// the answer by then.
func Export() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{\"answer\":")
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(3 * time.Second):
			io.WriteString(w, "\"export\"}\n")
		case <-r.Context().Done(): // the client has left
		}
	})
}
