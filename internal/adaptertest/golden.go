package adaptertest

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

var update = flag.Bool("update", false, "update the golden files")

// transcript sends requests at their times, on a fake clock, and returns them with their responses. If down is true,
// the limiter is closed, so that it makes no decisions.
func transcript(t *testing.T, app App, protocol string, requests []request, down bool) []byte {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		defer limiter.Close()
		d, err := limiter.AllowN(t.Context(), "ip:"+Busy, Flight.Max, Flight)
		require.True(t, err == nil && d.Allowed)
		if down {
			limiter.Close()
		}
		server, start := serve(t, app(limiter), protocol), time.Now()
		defer server.http.Close()
		for _, r := range requests {
			time.Sleep(r.at - time.Since(start))
			response, body := server.send(r)
			fmt.Fprintf(&out, "=== %v %s %s %s\n", r.at, strings.TrimSpace(r.method+" "+r.target), r.from,
				strings.ReplaceAll(r.header, "\n", ", "))
			writeResponse(&out, response, body)
			checkFields(t, response.Header)
		}
	})
	return out.Bytes()
}

// writeResponse writes a response to a transcript.
func writeResponse(out *bytes.Buffer, r *http.Response, body string) {
	fmt.Fprintln(out, r.StatusCode, http.StatusText(r.StatusCode))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name == "Date" || name == "Content-Length" { // net/http sets them
			continue
		}
		for _, value := range r.Header[name] {
			fmt.Fprintf(out, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintf(out, "\n%s\n", body)
}

// golden compares got with a golden file, or writes the file if the flag -update is set.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join(root(t), "testdata", "http", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), file)
}

// root returns the directory of the module, which contains the working directory of the test.
func root(t *testing.T) string {
	dir := "."
	for _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil; _, err = os.Stat(filepath.Join(dir, "go.mod")) {
		dir = filepath.Join(dir, "..")
		require.Less(t, len(dir), 100, "there is no go.mod")
	}
	return dir
}
