package browser

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
)

// exchanges sends four requests to each API, with a header that needs a preflight. It returns the status, the fields
// and the body of the responses. The last request uses the function send of ginlimit/README.md, which obeys
// Retry-After.
const exchanges = `(async () => {
	%s
	const read = async (response) => {
		const fields = ["RateLimit-Policy", "RateLimit", "Retry-After"].map((name) => response.headers.get(name));
		return [response.status, ...fields, await response.text()].join(" | ");
	};
	const options = {headers: {"X-API-Key": "ann"}};
	return Promise.all(%s.map(async (url) => {
		const responses = [];
		for (let i = 0; i < 3; i++) responses.push(await read(await fetch(url, options)));
		responses.push(await read(await send(url, options)));
		return responses;
	}));
})()`

// A script in a page of another origin reads the fields and obeys them, and its preflights are not counted.
func TestCORS(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../ginlimit/README.md")
	require.NoError(t, err)
	send := regexp.MustCompile("(?s)```js\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, send)

	serve := func(handler http.HandlerFunc) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
	origin := serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<!doctype html>") })
	limit := core.Limit{Name: "page", Max: 2, Window: 5 * time.Second}
	var preflights atomic.Int64
	var apis []string
	for _, adapter := range adapters.All {
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		t.Cleanup(func() { limiter.Close() })
		handler := adapter.Page(limiter, limit, origin)
		apis = append(apis, serve(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Headers") != "" {
				preflights.Add(1)
			}
			handler.ServeHTTP(w, r)
		}))
	}
	urls, err := json.Marshal(apis)
	require.NoError(t, err)

	p := open(t, origin)
	p.mayComplain = true // about requests to other origins
	all := eval[[][]string](p, fmt.Sprintf(exchanges, send[1], urls))
	require.Len(t, all, len(adapters.All))
	seconds := regexp.MustCompile(`(t=|\| )[1-5]\b`)
	for i, responses := range all {
		for j, response := range responses {
			responses[j] = seconds.ReplaceAllString(response, "${1}N")
		}
		require.Len(t, responses, 4)
		assert.Equal(t, []string{
			`200 | "page";q=2;w=5 | "page";r=1 |  | results`,
			`200 | "page";q=2;w=5 | "page";r=0;t=N |  | results`,
			`429 | "page";q=2;w=5 | "page";r=0;t=N | N | denied`,
		}, responses[:3], adapters.All[i].Dir)
		assert.Contains(t, responses[3], `200 | "page";q=2;w=5 | "page";r=`, adapters.All[i].Dir)
	}
	assert.GreaterOrEqual(t, preflights.Load(), int64(len(adapters.All)), "the browser asked each API for permission")
}
