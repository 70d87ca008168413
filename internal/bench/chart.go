package main

import (
	"fmt"
	"html"
	"strings"
)

const (
	chartWidth  = 860
	chartMargin = 16
	barsLeft    = 150 // right of the contenders' names
	rowHeight   = 24
	barHeight   = 14
	labelWidth  = 52 // right of the longest bar
)

var panels = []struct{ scenario, title, about string }{
	{"spread/256", "10,000 keys", "never at the limit"},
	{"hot", "One hot key", "never at its limit"},
	{"denied", "One full key", "nearly always denied"},
	{"zipf", "100,000 keys by Zipf", "some denied"},
}

// style makes the chart readable on light and dark pages. It sets a background, because an image knows only the
// theme of the system, which may differ from that of the page.
const style = `
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
.heading { font-size: 16px; font-weight: 600 }
.title, .ours { font-weight: 600 }
.quiet { fill: #59636e; font-size: 12px }
text.ours { fill: #0757b8 }
rect { fill: #a3acb6 }
rect.page { fill: #ffffff }
rect.ours { fill: #0969da }
line { stroke: #59636e; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9aa3ad }
  text.ours { fill: #6cb0ff }
  rect { fill: #656d77 }
  rect.page { fill: #0d1117 }
  rect.ours { fill: #4493f8 }
  line { stroke: #9aa3ad }
}
`

// charted reports whether everything that the chart shows was measured.
func (r *report) charted() bool {
	for _, p := range panels {
		if r.scenario(p.scenario) == nil {
			return false
		}
	}
	return r.OnRedis != nil
}

// drawing is the SVG of a chart, as far as it is drawn.
type drawing struct{ strings.Builder }

func (d *drawing) text(x, y float64, class, text string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(text))
}

// bar draws a bar in the row whose top is at y, with a label at its end.
func (d *drawing) bar(x, y, width float64, name, label string) {
	class := ""
	if name == ours {
		class = "ours"
	}
	width = max(width, 1.5)
	fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" rx="2" class="%s"/>`+"\n", x,
		y+(rowHeight-barHeight)/2., width, barHeight, class)
	d.text(x+width+6, y+rowHeight/2.+4.5, class, label)
}

func (d *drawing) name(y float64, name string) {
	class := ""
	if name == ours {
		class = "ours"
	}
	d.text(chartMargin, y+rowHeight/2.+4.5, class, name)
}

// chart draws the rates, each scenario on its own scale, and below them the worst windows.
func chart(r *report) string {
	var d drawing
	d.text(chartMargin, 26, "heading", "Decisions per second on Redis, 256 goroutines: more is better")
	const top = 88.
	column := float64(chartWidth-barsLeft-chartMargin) / float64(len(panels))
	for i, p := range panels {
		rows := r.scenario(p.scenario).Rows
		x, maxRate := barsLeft+float64(i)*column, 0.
		for _, row := range rows {
			maxRate = max(maxRate, row.PerSecond)
		}
		d.text(x, 58, "title", p.title)
		d.text(x, 75, "quiet", p.about)
		for j, row := range rows {
			y := top + float64(j*rowHeight)
			if i == 0 {
				d.name(y, row.Contender)
			}
			d.bar(x, y, (column-labelWidth)*row.PerSecond/maxRate, row.Contender, amount(row.PerSecond))
		}
	}

	y := top + float64(len(r.OnRedis)*rowHeight) + 44
	d.text(chartMargin, y, "heading", "Most requests admitted in one window, of the limit asked for: 100 % is exact")
	y += 36
	maxPercent := 100.
	for _, e := range r.OnRedis {
		maxPercent = max(maxPercent, e.percent())
	}
	scale := (chartWidth - barsLeft - chartMargin - labelWidth) / maxPercent
	line := barsLeft + 100*scale
	for i, e := range r.OnRedis {
		y := y + float64(i*rowHeight)
		d.name(y, e.Contender)
		d.bar(barsLeft, y, scale*e.percent(), e.Contender, fmt.Sprintf("%.0f %%", e.percent()))
	}
	end := y + float64(len(r.OnRedis)*rowHeight)
	fmt.Fprintf(&d, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", line, line, y-6, end+4)
	fmt.Fprintf(&d, `<text x="%.1f" y="%.1f" class="quiet" text-anchor="middle">the limit</text>`+"\n", line, y-12)

	m := r.Machine
	d.text(chartMargin, end+32, "quiet", fmt.Sprintf("%d cores shared with Redis %s, %s. Bars compare within a column.",
		m.Cores, m.Redis, m.Go))
	const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f"` +
		` role="img" aria-labelledby="title desc">`
	return fmt.Sprintf(svg+`
<title id="title">Speed and accuracy of exactlimit and other rate limiters</title>
<desc id="desc">%s</desc>
<style>%s</style>
<rect width="100%%" height="100%%" class="page"/>
%s</svg>
`, chartWidth, end+48, chartWidth, end+48, html.EscapeString(r.description()), style, d.String())
}

func (e exactness) percent() float64 { return 100 * float64(e.Worst) / float64(e.Limit) }

// description describes the chart in words.
func (r *report) description() string {
	var b strings.Builder
	fmt.Fprint(&b, "Decisions per second on Redis.")
	for _, p := range panels {
		fmt.Fprintf(&b, " %s, %s:", p.title, p.about)
		for i, row := range r.scenario(p.scenario).Rows {
			fmt.Fprintf(&b, "%s %s %s", comma(i), row.Contender, amount(row.PerSecond))
		}
		fmt.Fprint(&b, ".")
	}
	fmt.Fprint(&b, " Most requests admitted in one window, of the limit asked for:")
	for i, e := range r.OnRedis {
		fmt.Fprintf(&b, "%s %s %.0f %%", comma(i), e.Contender, e.percent())
	}
	return b.String() + "."
}
