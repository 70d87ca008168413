//go:build unix

package e2e

import (
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// page sends four requests to each API, with a header that needs a preflight, and posts the responses to its own
// origin. The fourth request is sent by the function in ginlimit/README.md, which waits for Retry-After.
var page = template.Must(template.New("").Parse(`<!doctype html><script>
{{.Send}}
async function describe(response) {
  const {status, headers} = response;
  return [status, headers.get("RateLimit-Policy"), headers.get("RateLimit"), headers.get("Retry-After"),
	await response.text()].join(" | ");
}
async function request(url) {
  const options = {headers: {"X-API-Key": "ann"}};
  const responses = [];
  try {
    for (let i = 0; i < 3; i++) responses.push(await describe(await fetch(url, options)));
    responses.push(await describe(await send(url, options)));
  } catch (error) { responses.push(String(error)); }
  return responses;
}
Promise.all({{.APIs}}.map(request)).then((all) => fetch("/responses", {method: "POST", body: JSON.stringify(all)}));
</script>`))

// A script of another origin reads the fields in a real browser and waits for Retry-After. Its preflights are not
// counted.
func TestBrowser(t *testing.T) {
	redistest.Long(t)
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: on Debian, run apt-get install chromium")
	}
	readme, err := os.ReadFile("../../ginlimit/README.md")
	require.NoError(t, err)
	script := regexp.MustCompile("(?s)```js\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, script)
	var preflights atomic.Int64
	serve := func(handler http.Handler) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Headers") != "" {
				preflights.Add(1)
			}
			handler.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	results := make(chan [][]string, 1)
	pages := httptest.NewUnstartedServer(nil)
	origin := "http://" + pages.Listener.Addr().String()
	limit := core.Limit{Name: "page", Max: 2, Window: 5 * time.Second}
	var apis []string
	for _, adapter := range adapters.All {
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		apis = append(apis, serve(adapter.Page(limiter, limit, origin)))
	}
	pages.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			page.Execute(w, map[string]any{"Send": template.JS(script[1]), "APIs": apis})
		case "/responses":
			var all [][]string
			text, _ := io.ReadAll(r.Body)
			assert.NoError(t, json.Unmarshal(text, &all))
			results <- all
		}
	})
	pages.Start()
	defer pages.Close()

	browse(t, chromium, origin)
	select {
	case all := <-results:
		require.Len(t, all, len(adapters.All))
		for i, responses := range all {
			require.Len(t, responses, 4, responses)
			seconds := regexp.MustCompile(`(t=|\| )[1-5]\b`)
			for n, want := range []string{
				`200 | "page";q=2;w=5 | "page";r=1 |  | results`,
				`200 | "page";q=2;w=5 | "page";r=0;t=N |  | results`,
				`429 | "page";q=2;w=5 | "page";r=0;t=N | N | denied`,
				`200 | "page";q=2;w=5 | "page";r=`,
			} {
				got := seconds.ReplaceAllString(responses[n], "${1}N")
				if n == 3 {
					assert.Contains(t, got, want, adapters.All[i].Dir)
				} else {
					assert.Equal(t, want, got, adapters.All[i].Dir)
				}
			}
		}
		assert.GreaterOrEqual(t, preflights.Load(), int64(len(adapters.All)), "each API got a preflight")
	case <-time.After(time.Minute):
		t.Fatal("the page has not posted the responses")
	}
}

// browse opens a page, and keeps it open until the end of the test.
func browse(t *testing.T, chromium, url string) {
	profile, err := os.MkdirTemp("", "chromium")
	require.NoError(t, err)
	cmd := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+profile, "--remote-debugging-port=0", url) // without the port, Chromium exits at once
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Chromium starts many processes
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		os.RemoveAll(profile)
	})
}
