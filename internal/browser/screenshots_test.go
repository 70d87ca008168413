package browser

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

var screenshots = flag.String("screenshots", "", "the folder to write the README's pictures of the page to")

// TestScreenshots takes what the README shows: a page that shares its window with that of a second server.
//
//	go test -run Screenshots . -screenshots ../../testdata
//
// Its font is Inter where that is installed, as by Debian's fonts-inter.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("for those who ask with -screenshots")
	}
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			redis := redistest.Start(t)
			other := open(t, serve(t, "echolimit", "-redis", redis.URL()))
			p := open(t, serve(t, "ginlimit", "-redis", redis.URL()), "prefers-color-scheme", scheme)
			p.do(chromedp.EmulateViewport(1120, 950, chromedp.EmulateScale(1.5)))
			scene(p, other)
			picture := get(p, chromedp.CaptureScreenshot())
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, "demo-"+scheme+".png"), picture, 0o644))
		})
	}
}

// scene has the window filled: some that are leaving, two of the other page's, the rest of this one, and who came too late.
func scene(p, other *tab) {
	for range 3 {
		p.click("one")
		time.Sleep(350 * time.Millisecond)
	}
	time.Sleep(4500 * time.Millisecond)
	p.click("one")
	time.Sleep(900 * time.Millisecond)
	for range 2 {
		other.click("one")
	}
	time.Sleep(900 * time.Millisecond)
	p.click("one")
	time.Sleep(700 * time.Millisecond)
	p.click("one")
	time.Sleep(3000 * time.Millisecond)
	p.click("burst")
	time.Sleep(1600 * time.Millisecond)
	p.click("one")
	eval[any](p, "document.activeElement.blur()")
	time.Sleep(900 * time.Millisecond)
}
