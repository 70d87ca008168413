package browser

import (
	"fmt"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

// measure sends a burst and measures the 180 frames that follow: the time from each frame to the next, and the time
// that the page's script takes to draw one, in milliseconds.
const measure = `new Promise((resolve) => {
	const request = window.requestAnimationFrame;
	const times = [];
	const draws = [];
	window.requestAnimationFrame = (draw) => request((time) => {
		const began = performance.now();
		draw(time);
		draws.push(performance.now() - began);
	});
	const frame = (time) => {
		times.push(time);
		if (times.length <= 180) return request(frame);
		window.requestAnimationFrame = request;
		resolve({frames: times.slice(1).map((time, i) => time - times[i]), draws});
	};
	request(frame);
	document.getElementById("burst").click();
})`

// BenchmarkFrames reports how smoothly the page moves during a burst, when its windows are full and a stream runs. At
// 60 frames per second, a frame takes 16.7 ms. It asserts nothing.
//
//	go test -run '^$' -bench Frames .
func BenchmarkFrames(b *testing.B) {
	for _, scale := range []float64{1, 2} {
		b.Run(fmt.Sprintf("pixels-per-px=%g", scale), func(b *testing.B) {
			p := open(b, serve(b, "ginlimit"))
			p.do(chromedp.EmulateViewport(1120, 950, chromedp.EmulateScale(scale)))
			p.choose("report-pro")
			for range 7 {
				p.click("burst")
			}
			p.becomes("Number("+text("admitted")+") + Number("+text("denied")+")", "105")
			p.click("stream")

			var frames, draws []float64
			for b.Loop() {
				measured := eval[struct {
					Frames []float64 `json:"frames"`
					Draws  []float64 `json:"draws"`
				}](p, measure)
				frames = append(frames, measured.Frames...)
				draws = append(draws, measured.Draws...)
			}
			for unit, times := range map[string][]float64{"frame": frames, "draw": draws} {
				slices.Sort(times)
				b.ReportMetric(times[len(times)/2], "median-ms/"+unit)
				b.ReportMetric(times[len(times)-1], "worst-ms/"+unit)
			}
			b.ReportMetric(0, "ns/op") // it is the time of 180 frames
		})
	}
}
