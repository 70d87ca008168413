package browser

import (
	"bufio"
	"context"
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

	"github.com/exactlimit/exactlimit/internal/adapters"
)

// patience is how long a test waits before it fails. No test asserts a time.
const patience = time.Minute

var (
	binaries string          // the folder of the compiled examples
	chromium context.Context // one process; each tab has its own window and storage
)

func TestMain(m *testing.M) {
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// setUp compiles the examples, starts Chromium and runs the tests.
func setUp(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "exactlimit-browser-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, adapter := range adapters.All {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, binary(adapter.Dir)), "./"+adapter.Dir+"/example")
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, out)
		}
	}
	binaries = dir

	// Without these flags Chromium connects to its vendor's servers when it starts.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.DisableGPU,
	)
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has no sandbox for root
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	var cancel context.CancelFunc
	chromium, cancel = chromedp.NewContext(allocator)
	defer cancel()
	if err := chromedp.Do(chromium); err != nil {
		return 0, fmt.Errorf("Chromium does not start; on Debian, install the package chromium: %w", err)
	}
	return m.Run(), nil
}

// binary returns the file name of an adapter's compiled example.
func binary(adapter string) string { return strings.ReplaceAll(adapter, "/", "-") }

// serve runs an adapter's example until the test ends, and returns its URL.
func serve(t testing.TB, adapter string, args ...string) string {
	t.Helper()
	address, _ := start(t, adapter, args...)
	return address
}

// start is serve, and returns a function that kills the server earlier.
func start(t testing.TB, adapter string, args ...string) (address string, stop func()) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, binary(adapter)), append([]string{"-addr", "127.0.0.1:0"}, args...)...)
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
	t   testing.TB
	ctx context.Context

	mayComplain bool // the page may log errors and send requests to other servers
}

// open opens the page at a URL, with values of media features such as prefers-color-scheme, in pairs. When the test
// ends, the page must have logged no error, and have sent no request to another server.
func open(t testing.TB, address string, media ...string) *tab {
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
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext(),
		chromedp.WithListener(func(event any) {
			switch e := event.(type) {
			case *runtime.EventExceptionThrown:
				complain("exception:", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description)
			case *runtime.EventConsoleAPICalled:
				complain("console:", e.Args[0].Description, string(e.Args[0].Value))
			case *log.EventEntryAdded:
				// Chromium logs each 429 as an error, but the page expects them.
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

// eval returns the value of an expression in the page. If it is a promise, eval waits for it.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

func (p *tab) click(id string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.ID(id)))
}

// choose clicks on a route, and waits until the page shows it, so that the next click does not miss what still moves.
func (p *tab) choose(route string) {
	p.t.Helper()
	input := "input[value=" + route + "]"
	p.do(chromedp.Click(chromedp.CSS(input)))
	p.becomes(text("route")+` === (({method, path, key}) => method + " " + path + (key ? "  X-API-Key: " + key : ""))
		(document.querySelector("`+input+`").dataset)`, "true")
}

// text returns the expression of an element's text.
func text(id string) string {
	return fmt.Sprintf("document.getElementById(%q).textContent", id)
}

func (p *tab) text(id string) string {
	p.t.Helper()
	return eval[string](p, text(id))
}

// record makes the page collect the texts of elements, joined by spaces, whenever they change. They are the elements of
// the page's array recorded. A test that must see a text that does not last reads them there.
func (p *tab) record(ids ...string) {
	p.t.Helper()
	eval[any](p, fmt.Sprintf(`{
		const elements = %q.split(" ").map((id) => document.getElementById(id));
		window.recorded = [];
		new MutationObserver(() => {
			const texts = elements.map((e) => e.textContent).join(" ");
			if (texts !== recorded.at(-1)) recorded.push(texts);
		}).observe(document.body, {childList: true, characterData: true, subtree: true});
	}`, strings.Join(ids, " ")))
}

// sees waits until an element has a text.
func (p *tab) sees(id, want string) {
	p.t.Helper()
	p.becomes(text(id), want)
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
