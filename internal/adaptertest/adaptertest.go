// Package adaptertest checks that all adapters behave identically: the same requests, at the same times, get the same
// bytes. The expected responses are the golden files in testdata/http. To update them, run
//
//	go test ./ginlimit -update
//
// then read the difference, and check that the tests of the other adapters still pass.
package adaptertest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Run runs all conformance tests on the App of an adapter. Those of the table run over each protocol.
func Run(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			for _, row := range table {
				t.Run(row.name, func(t *testing.T) {
					golden(t, row.name, transcript(t, app, protocol, row.requests, false))
				})
			}
			t.Run("unavailable", func(t *testing.T) {
				golden(t, "unavailable", transcript(t, app, protocol, unavailable, true))
			})
		})
	}
	t.Run("upgrade", func(t *testing.T) { // HTTP/2 has no such upgrade
		upgrade := request{target: "/upgrade", header: "Connection: Upgrade\nUpgrade: hello"}
		golden(t, "upgrade", transcript(t, app, "HTTP/1.1", []request{upgrade, upgrade, upgrade}, false))
	})
	t.Run("outage", func(t *testing.T) { outage(t, app) })
	t.Run("logins", func(t *testing.T) { logins(t, app) })
	t.Run("guard", func(t *testing.T) { guard(t, app) })
	t.Run("instances", func(t *testing.T) { instances(t, app) })
	t.Run("interim", func(t *testing.T) { interim(t, app) })
	t.Run("disconnects", func(t *testing.T) { disconnects(t, app) })
	t.Run("streams", func(t *testing.T) { streams(t, app) })
	t.Run("uploads", func(t *testing.T) { uploads(t, app) })
	t.Run("slow uploads", func(t *testing.T) { slowUploads(t, app) })
	t.Run("uploads behind readers", func(t *testing.T) { uploadsBehindReaders(t, app) })
	t.Run("upgrades", func(t *testing.T) { upgrades(t, app) })
	t.Run("contexts of handlers", func(t *testing.T) { contextsOfHandlers(t, app) })
	t.Run("panics", func(t *testing.T) { panics(t, app) })
	t.Run("refunds", func(t *testing.T) { refunds(t, app) })
	t.Run("settles", func(t *testing.T) { settles(t, app) })
	t.Run("settles of many", func(t *testing.T) { settlesOfMany(t, app) })
	t.Run("in flight", func(t *testing.T) { inFlight(t, app) })
	t.Run("spans", func(t *testing.T) { spans(t, app) })
	t.Run("errors", func(t *testing.T) { serviceErrors(t, app) })
	t.Run("deadlines", func(t *testing.T) { deadlines(t, app) })
}

// Get calls handler with a GET request for target, with headers of the form "Name: value".
func Get(handler http.Handler, target string, headers ...string) *http.Response {
	r := httptest.NewRequest("GET", target, nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result()
}
