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

var screenshots = flag.String("screenshots", "", "the `folder` to write the README's screenshots of the page to")

// TestScreenshots takes the README's screenshots: a page whose server shares its limits with a second server.
//
//	go test -run Screenshots . -screenshots ../../testdata
//
// The font is Inter if it is installed. On Debian it is in the package fonts-inter.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("runs only with -screenshots")
	}
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			redis := redistest.Start(t)
			other := open(t, serve(t, "echolimit", "-redis", redis.URL()))
			p := open(t, serve(t, "ginlimit", "-redis", redis.URL()), "prefers-color-scheme", scheme)
			p.do(chromedp.EmulateViewport(1120, 960, chromedp.EmulateScale(1.5)))
			sendForScreenshot(p, other)
			picture := get(p, chromedp.CaptureScreenshot())
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, "demo-"+scheme+".png"), picture, 0o644))
		})
	}
}

// sendForScreenshot fills the window: with requests that expire, two of the other page, a burst that is denied in part,
// and one more denied request.
func sendForScreenshot(p, other *tab) {
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
