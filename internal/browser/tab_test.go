package browser

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must come. No test asserts how fast it does.
const patience = time.Minute

var (
	frameworks []string        // the adapters, which are the packages that have an example
	binaries   string          // the folder of the examples
	chromium   context.Context // one process; every tab has a window and storage of its own
)

func TestMain(m *testing.M) {
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "exactlimit-browser-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	examples := exec.Command("go", "list", "./...")
	examples.Dir = "../.."
	packages, err := examples.Output()
	if err != nil {
		return 0, err
	}
	for _, pkg := range strings.Fields(string(packages)) {
		framework, isExample := strings.CutSuffix(strings.TrimPrefix(pkg, "github.com/exactlimit/exactlimit/"), "/example")
		if !isExample {
			continue
		}
		frameworks = append(frameworks, framework)
		build := exec.Command("go", "build", "-o", filepath.Join(dir, binary(framework)), pkg)
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, out)
		}
	}
	if len(frameworks) == 0 {
		return 0, errors.New("there are no examples")
	}
	binaries = dir

	// What makes a browser of 2026 look for its maker at start is off: the tests are alone with their servers.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.DisableGPU,
	)
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	var cancel context.CancelFunc
	chromium, cancel = chromedp.NewContext(allocator)
	defer cancel()
	if err := chromedp.Do(chromium); err != nil {
		return 0, fmt.Errorf("Chromium does not start; Debian has it in the package chromium: %w", err)
	}
	return m.Run(), nil
}

// binary is the name of an adapter's example in the folder of all.
func binary(framework string) string { return strings.ReplaceAll(framework, "/", "-") }

// serve runs an example until the test ends, and returns its URL.
func serve(t *testing.T, framework string, args ...string) string {
	t.Helper()
	address, _ := start(t, framework, args...)
	return address
}

func start(t *testing.T, framework string, args ...string) (address string, stop func()) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, binary(framework)), append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "REDIS_URL=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(stop)
	reader := bufio.NewReader(out)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, reader)
	return regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(line) + "/", stop
}

// tab is an open page.
type tab struct {
	t   *testing.T
	ctx context.Context

	mayComplain bool
}

// open opens the page at a URL, with what media queries find there, such as prefers-color-scheme, in pairs. When the test ends,
// the page must have complained of nothing and asked nobody else.
func open(t *testing.T, address string, media ...string) *tab {
	t.Helper()
	server, err := url.Parse(address)
	require.NoError(t, err)
	var mu sync.Mutex
	var complaints []string
	complain := func(what ...any) {
		mu.Lock()
		defer mu.Unlock()
		complaints = append(complaints, fmt.Sprintln(what...))
	}
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext(), chromedp.WithListener(func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complain("exception:", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description)
		case *runtime.EventConsoleAPICalled:
			complain("console:", e.Args[0].Description, string(e.Args[0].Value))
		case *log.EventEntryAdded:
			// That an answer was a 429 is an error to a browser, and what this page is about.
			if !strings.Contains(e.Entry.Text, "status of 429 ") {
				complain("log:", e.Entry.Source, e.Entry.Text, e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			if to, err := url.Parse(e.Request.URL); err != nil || to.Host != server.Host && to.Scheme != "data" {
				complain("request to", e.Request.URL)
			}
		}
	}))
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx}
	call(p, network.Enable, network.EnableParams{})
	call(p, log.Enable, cdp.Empty{})
	var features []*emulation.MediaFeature
	for pair := range slices.Chunk(media, 2) {
		features = append(features, &emulation.MediaFeature{Name: pair[0], Value: pair[1]})
	}
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
	p.do(chromedp.Navigate(address))
	t.Cleanup(func() { // before the tab closes
		mu.Lock()
		defer mu.Unlock()
		if !p.mayComplain {
			assert.Empty(t, complaints)
		}
	})
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

func get[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	require.NoError(p.t, err)
	return value
}

func call[P, R any](p *tab, command cdp.Command[P, R], params P) R {
	p.t.Helper()
	result, err := chromedp.Call(p.ctx, command, params)
	require.NoError(p.t, err)
	return result
}

// eval returns the value of an expression in the page.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

func (p *tab) click(id string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.ID(id)))
}

// choose switches to a route as one does with a pointer.
func (p *tab) choose(route string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS("input[value=" + route + "]")))
	p.becomes(`(({method, path, key}) => document.getElementById("route").textContent === method + " " + path + (key ? "  X-API-Key: " + key : ""))
		(document.querySelector("input[value=`+route+`]").dataset)`, "true") // or the next click may miss what still moves
}

func (p *tab) text(id string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.getElementById(%q).textContent", id))
}

// sees waits until an element has a text.
func (p *tab) sees(id, want string) {
	p.t.Helper()
	p.becomes(fmt.Sprintf("document.getElementById(%q).textContent", id), want)
}

// becomes waits until an expression has a value.
func (p *tab) becomes(expression, want string) {
	p.t.Helper()
	var got string
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if got = fmt.Sprint(eval[any](p, expression)); got == want {
			return
		}
		if time.Now().After(deadline) {
			require.Equal(p.t, want, got, expression)
		}
	}
}
