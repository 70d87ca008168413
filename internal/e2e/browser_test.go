//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
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

// page asks each API four times, with a header that needs leave, and sends what it saw to where it came from. The fourth
// time it obeys, by the function of ginlimit/README.md.
var page = template.Must(template.New("").Parse(`<!doctype html><script>
{{.Send}}
async function saw(response) {
  const {status, headers} = response;
  return [status, headers.get("RateLimit-Policy"), headers.get("RateLimit"), headers.get("Retry-After"), await response.text()].join(" | ");
}
async function ask(url) {
  const options = {headers: {"X-API-Key": "ann"}};
  const answers = [];
  try {
    for (let i = 0; i < 3; i++) answers.push(await saw(await fetch(url, options)));
    answers.push(await saw(await send(url, options)));
  } catch (error) { answers.push(String(error)); }
  return answers;
}
Promise.all({{.APIs}}.map(ask)).then((all) => fetch("/saw", {method: "POST", body: JSON.stringify(all)}));
</script>`))

// A script in a page of another origin reads the fields in a real browser, obeys them, and its preflights are not counted.
func TestBrowser(t *testing.T) {
	redistest.Long(t)
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed, so no browser reads the fields; on Debian: apt-get install chromium")
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
		case "/saw":
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
		for i, answers := range all {
			require.Len(t, answers, 4, answers)
			seconds := regexp.MustCompile(`(t=|\| )[1-5]\b`)
			for n, want := range []string{
				`200 | "page";q=2;w=5 | "page";r=1 |  | results`,
				`200 | "page";q=2;w=5 | "page";r=0;t=N |  | results`,
				`429 | "page";q=2;w=5 | "page";r=0;t=N | N | denied`,
				`200 | "page";q=2;w=5 | "page";r=`,
			} {
				got := seconds.ReplaceAllString(answers[n], "${1}N")
				if n == 3 {
					assert.Contains(t, got, want, adapters.All[i].Dir)
				} else {
					assert.Equal(t, want, got, adapters.All[i].Dir)
				}
			}
		}
		assert.GreaterOrEqual(t, preflights.Load(), int64(len(adapters.All)), "each API was asked for leave")
	case <-time.After(time.Minute):
		t.Fatal("the page has not said what it saw")
	}
}

// browse opens a page, and keeps it open until the end of the test: a browser that may be debugged does not leave by
// itself.
func browse(t *testing.T, chromium, url string) {
	profile, err := os.MkdirTemp("", "chromium")
	require.NoError(t, err)
	cmd := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", fmt.Sprint("--user-data-dir=", profile), "--remote-debugging-port=0", url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it starts many
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		os.RemoveAll(profile)
	})
}
