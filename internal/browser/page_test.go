package browser

import (
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// The page sends one request, then more at once than there is room for. The rest is denied, the wait of Retry-After
// counts down, and then a request is admitted.
func TestBurst(t *testing.T) {
	t.Parallel()
	for _, adapter := range adapters.All {
		t.Run(adapter.Dir, func(t *testing.T) {
			t.Parallel()
			p := open(t, serve(t, adapter.Dir))
			assert.Equal(t, "–", p.text("used"), "unknown before the first response")
			p.click("one")
			p.sees("limit", "10 requests in any 10 seconds")
			p.sees("used", "1")
			assert.Equal(t, "all from this page", p.text("shares"))
			assert.Equal(t, "now", p.text("wait"))
			assert.Contains(t, p.text("response"), `200 OK
RateLimit: "api";r=99, "search";r=9
RateLimit-Policy: "api";q=100;w=60, "search";q=10;w=10`)

			p.record("wait")
			p.click("burst")
			p.becomes(text("denied")+" > 0", "true")
			p.becomes(`/^Retry-After: [0-9]+$/.test(`+text("source")+")", "true")
			p.becomes("Number("+text("admitted")+") + Number("+text("denied")+")", "16")

			p.sees("wait", "now")
			waits := eval[[]string](p, "recorded")
			assert.Greater(t, len(waits), 1, "the page counted down: %v", waits)
			admitted := number(t, p, "admitted")
			p.click("one")
			p.sees("admitted", strconv.Itoa(admitted+1))
			assert.Contains(t, p.text("response"), "200 OK")
		})
	}
}

func number(t *testing.T, p *tab, id string) int {
	t.Helper()
	n, err := strconv.Atoi(p.text(id))
	require.NoError(t, err)
	return n
}

// Each route has its own window and Max. The limit "api" counts the requests to all routes, including those that the
// route's own limit denies. The two keys of Report are two clients.
func TestRoutes(t *testing.T) {
	t.Parallel()
	p := open(t, serve(t, "ginlimit"))
	for _, test := range []struct{ route, shows, limit, admitted, denied, api string }{
		{"login", "POST /api/login", "5 requests in any minute", "5", "10", "15 of 100"},
		{"report", "GET /api/report  X-API-Key: demo", "3 requests in any minute", "3", "12", "30 of 100"},
		{"report-pro", "GET /api/report  X-API-Key: pro-demo", "30 requests in any minute", "15", "0", "45 of 100"},
	} {
		p.choose(test.route)
		p.sees("route", test.shows)
		assert.Equal(t, "Limit not known yet", p.text("limit"))
		p.click("burst")
		p.sees("limit", test.limit)
		p.sees("admitted", test.admitted)
		p.sees("denied", test.denied)
		p.sees("used", test.admitted)
		p.sees("also-used", test.api)
		assert.Equal(t, "all from this page", p.text("shares"))
	}
	p.choose("login") // its window is still full
	p.sees("limit", "5 requests in any minute")
	for _, denied := range []string{"25", "40", "55", "70"} {
		p.click("burst")
		p.sees("denied", denied)
	}
	p.sees("also-used", "100 of 100")
	p.click("one")
	p.becomes(`/^Retry-After: [0-9]+ \(api\)$/.test(`+text("source")+")", "true")
	assert.Equal(t, "5", p.text("used"), "in the window of login itself")

	p.choose("search")
	p.click("one")
	p.sees("denied", "1")
	assert.Equal(t, "Limit not known yet", p.text("limit"))
	p.becomes(`document.getElementById("timeline").getAttribute("aria-label")`,
		"Timeline: Another limit denied the requests before they reached this one.")
}

// Two exports may be in flight, until each has ended. The others are denied, and may retry in a second.
func TestInFlight(t *testing.T) {
	t.Parallel()
	for _, adapter := range adapters.All {
		t.Run(adapter.Dir, func(t *testing.T) {
			t.Parallel()
			p := open(t, serve(t, adapter.Dir))
			p.choose("export")
			p.record("used", "wait", "shares")
			p.click("burst")
			p.sees("limit", "2 concurrent requests")
			p.sees("counted", "In flight")
			p.sees("admitted", "2")
			p.sees("denied", "13")
			p.sees("also-used", "15 of 100")
			assert.Contains(t, p.text("response"), `"export";r=0
RateLimit-Policy: "api";q=100;w=60, "export";q=2;qu="concurrent-requests"`)
			p.sees("used", "0") // both have ended
			assert.Contains(t, eval[[]string](p, "recorded.splice(0)"), "2 not yet all from this page")
			p.click("one")
			p.sees("admitted", "3")
			p.sees("used", "0")
			assert.Contains(t, eval[[]string](p, "recorded"), "1 now all from this page")
		})
	}
}

// The page can be used with a keyboard: Tab moves, arrows choose a route, Enter and Space send.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	p := open(t, serve(t, "echolimit"))
	press := func(keys ...string) {
		for _, key := range keys {
			p.do(chromedp.KeyEvent(key))
		}
	}
	on := func(id string) {
		assert.Equal(t, id, eval[string](p, "document.activeElement.id || document.activeElement.value"))
		assert.Equal(t, "solid", eval[string](p, `(() => {
			const e = document.activeElement;
			return getComputedStyle(e.name === "route" ? e.nextElementSibling : e).outlineStyle;
		})()`), "the focus is visible on %s", id)
	}
	press(kb.Tab)
	on("search")
	press(kb.ArrowRight)
	on("login")
	press(kb.Tab)
	on("one")
	press(kb.Enter)
	p.sees("used", "1")
	press(" ")
	p.sees("used", "2")
	press(kb.Tab)
	on("burst")
	press(kb.Enter)
	p.sees("denied", "12")
	p.sees("admitted", "5")
	press(kb.Tab)
	on("stream")
	press(kb.Enter)
	p.sees("stream", "Stop sending")
	p.becomes(text("denied")+" >= 14", "true")
	press(" ")
	p.sees("stream", "Send 2 per second")
	press(kb.Tab)
	on("response")
}

// The pages of two servers on one Redis, of different frameworks, share one window. Each page shows the requests of the
// other once a response reports them.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	first := open(t, serve(t, "ginlimit", "-redis", redis.URL()))
	second := open(t, serve(t, "echolimit", "-redis", redis.URL()))
	for _, p := range []*tab{first, second} {
		p.choose("login")
	}
	first.click("one")
	first.sees("used", "1")
	first.click("one")
	first.sees("used", "2")
	second.click("one")
	second.sees("used", "3")
	second.sees("shares", "1 from this page, 2 elsewhere")
	assert.Equal(t, "all from this page", first.text("shares"), "no response has reported the other page's request")
	first.click("one")
	first.sees("used", "4")
	first.sees("shares", "3 from this page, 1 elsewhere")
	second.click("burst")
	second.sees("denied", "14")
	second.sees("shares", "2 from this page, 3 elsewhere")
	second.sees("used", "5")
	first.click("one")
	first.sees("denied", "1")
	first.sees("shares", "3 from this page, 2 elsewhere")
}

// When two pages send bursts at the same time, neither takes its own requests for the other's.
func TestTwoBursts(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	first := open(t, serve(t, "ginlimit", "-redis", redis.URL()))
	second := open(t, serve(t, "ginlimit", "-redis", redis.URL()))
	for _, p := range []*tab{first, second} {
		p.choose("report-pro")
		p.click("burst")
	}
	for _, p := range []*tab{first, second} {
		p.sees("admitted", "15")
	}
	for _, p := range []*tab{first, second} {
		p.click("one") // alone, so its response settles which requests were whose
		p.sees("denied", "1")
		p.sees("shares", "15 from this page, 15 elsewhere")
	}
}

// When the window is empty again, the page stops drawing. Until then it draws once a second if the user prefers reduced
// motion.
func TestRest(t *testing.T) {
	t.Parallel()
	for _, motion := range []string{"no-preference", "reduce"} {
		t.Run(motion, func(t *testing.T) {
			t.Parallel()
			p := open(t, serve(t, "ginlimit"), "prefers-reduced-motion", motion)
			began := time.Now()
			eval[any](p, `window.frames_drawn = 0; window.frame = requestAnimationFrame;
				window.requestAnimationFrame = (f) => { frames_drawn++; return frame(f); }`)
			p.click("one")
			p.sees("used", "1")
			p.sees("used", "0")
			// The timeline of "api" moves for more than a minute, so the page's clock is set forward.
			eval[any](p, `{
				const now = performance.now;
				performance.now = () => now.call(performance) + 200_000;
			}`)
			var before, after int
			for deadline := time.Now().Add(patience); ; {
				before = eval[int](p, "frames_drawn")
				time.Sleep(1500 * time.Millisecond)
				if after = eval[int](p, "frames_drawn"); after == before {
					break
				}
				require.True(t, time.Now().Before(deadline), "the page still draws")
			}
			if motion == "reduce" {
				assert.Less(t, after, 10+2*int(time.Since(began).Seconds()), "about one frame per second, not sixty")
			}
			p.click("one")
			p.sees("used", "1")
		})
	}
}

// A screen reader announces the outcome of a burst once, not fifteen times.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	p := open(t, serve(t, "ginlimit"))
	assert.Equal(t, "status", eval[string](p, `document.getElementById("announcement").getAttribute("role")`))
	p.choose("login")
	p.record("announcement")
	p.click("burst")
	p.becomes("recorded.join(' ').match(/[0-9]+ (admitted|denied)/g)?.reduce((n, s) => n + parseInt(s), 0)", "15")
	said := eval[[]string](p, "recorded.filter((text) => text)")
	assert.LessOrEqual(t, len(said), 4, said) // on a slow machine, one burst may need several
	assert.Contains(t, said[len(said)-1], "5 of 5 in the window. Room for one more in ")
	label := eval[string](p, `document.getElementById("timeline").getAttribute("aria-label")`)
	assert.Contains(t, label, "5 of 5 in the window")
	unnamed := eval[[]string](p, `[...document.querySelectorAll("button, input, canvas, pre")]
		.filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length))
		.map((e) => e.outerHTML)`)
	assert.Empty(t, unnamed)
}

// The page fits a phone and a wide window, and is dark if the user prefers that.
func TestLooks(t *testing.T) {
	t.Parallel()
	address := serve(t, "ginlimit")
	pages := map[string]string{}
	for _, scheme := range []string{"light", "dark"} {
		p := open(t, address, "prefers-color-scheme", scheme)
		pages[scheme] = eval[string](p, "getComputedStyle(document.body).backgroundColor")
		for _, width := range []int64{320, 390, 1120} {
			p.do(chromedp.EmulateViewport(width, 844, chromedp.EmulateScale(2)))
			for _, route := range []string{"search", "report-pro"} {
				p.choose(route)
				p.click("one")
				p.becomes(text("max")+` !== ""`, "true")
				assert.LessOrEqual(t, eval[int64](p, "document.documentElement.scrollWidth"), width,
					"it does not scroll")
				p.becomes(`(({width, clientWidth}) => width === 2 * clientWidth)(document.getElementById("timeline"))`,
					"true")
			}
		}
	}
	assert.NotEqual(t, pages["light"], pages["dark"])
}

// The page reports that a server has gone, and continues to work.
func TestServerGone(t *testing.T) {
	t.Parallel()
	address, stop := start(t, "ginlimit")
	p := open(t, address)
	p.click("one")
	p.sees("used", "1")
	stop()
	p.mayComplain = true // Chromium logs the refused connection
	p.click("one")
	p.sees("response", "No response. Is the server running?")
	assert.Equal(t, "1", p.text("admitted"))
}

// Only the page's own script runs, even if another gets into the document.
func TestPolicy(t *testing.T) {
	t.Parallel()
	p := open(t, serve(t, "echolimit"))
	p.mayComplain = true // Chromium logs each violation
	got := eval[string](p, `(() => {
		const script = document.createElement("script");
		script.textContent = "window.got = 'in'";
		document.body.append(script);
		document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\"window.got = 'in'\">");
		return String(window.got);
	})()`)
	assert.Equal(t, "undefined", got)
	p.becomes(`fetch("http://127.0.0.2:1/").then(() => "through", (e) => e.constructor.name)`, "TypeError")
	p.becomes("String(window.got)", "undefined")
}
