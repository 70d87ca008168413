package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// sampleReport returns a report with made-up measurements.
func sampleReport() *report {
	r := &report{
		Machine: machine{CPU: "a CPU <1>", OS: "linux/amd64", Go: "go1.26", Redis: "7.0.15", Cores: 2,
			Modules: []module{{"github.com/ulule/limiter/v3", "v3.11.2"}}},
		Command: "go run -C internal/bench .", Rounds: 5, Turn: 700 * time.Millisecond, Took: 200 * time.Second,
		Ceiling: &ceiling{660e3, 147e3, 141e3, 290e3, 250e3, 0.86},
		Bytes: []footprint{{10, 424, 250, 42, 25, false}, {10_000, 1_130_848, 41_144, 113, 4, false},
			{Max: 100_000, Redis: 800_000, PerRedis: 8, Hot: true}},
	}
	for _, s := range scenarios() {
		x := result{Name: s.name, About: s.about, Goroutines: s.goroutines}
		for i, c := range s.contenders {
			x.Rows = append(x.Rows, row{Contender: c.name, How: c.how, Reference: c.reference,
				PerSecond: 4.6e6 / float64(1+i*i), Rates: []float64{4, 5}, Ratio: float64(1 + i*i),
				P50: 1500, P99: 4 * time.Millisecond, Allocs: 2, RedisCPU: 740,
				Requests: 10_000, Local: 10, Failed: 5, Failure: "no response",
				Diagnostics: diagnostics{map[string]int{"Redis is down": 3}, time.Second}})
		}
		r.Scenarios = append(r.Scenarios, x)
	}
	for i, c := range onRedis {
		r.OnRedis = append(r.OnRedis, exactness{c.name, c.how, 100, 100 + 30*(i%4),
			map[string]int{"border": 100 + 30*(i%4)}})
	}
	r.InMemory = r.OnRedis
	return r
}

func TestMarkdown(t *testing.T) {
	text := sampleReport().markdown()
	for _, want := range []string{
		"ulule/limiter/v3 v3.11.2",
		"| **exactlimit** | log | 4.6M | 4.6M | 4.6M | 4.6M |",
		"| redis_rate | GCRA | 2.3M · 2.00× |",
		"1.5 µs / 4.0 ms",
		"| bare Gin | no limit | 920k |  |",
		"worst: spread/256 1.25, spread/8 1.25,",
		"| the decision script, 32 questions in a call | 290k |",
		"Through Go, 0.86 of the decision script's own rate with 32",
		"| redis_rate | GCRA | 130 / 100 | 130 |",
		"| 10,000 | 1,130,848 | 113 | 41,144 | 4 |",
		"| 100,000, hot | 800,000 | 8.0 | | |",
		"| redis_rate+AP | GCRA | 0.74 µs |",
		"| **exactlimit** | 10,000 | 0.10 % | 0.05 % | 1.5 µs | 4.0 ms | open for 1.0 s, 3 warnings |",
		"- hot: exactlimit made 10 of 10000 decisions without Redis.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	// All rows of a table have as many cells as its head.
	cells := 0
	for line := range strings.Lines(text) {
		n := strings.Count(line, "|")
		if cells > 0 && n > 0 && n != cells {
			t.Errorf("%d cells, not %d: %s", n, cells, line)
		}
		cells = n
	}
}

// The report has no sections for scenarios that were not run.
func TestPartialReports(t *testing.T) {
	for i := range sampleReport().Scenarios {
		r := sampleReport()
		r.Scenarios, r.OnRedis, r.InMemory, r.Ceiling, r.Bytes = r.Scenarios[i:i+1], nil, nil, nil, nil
		if text := r.markdown(); !strings.Contains(text, "exactlimit**") || r.charted() {
			t.Error(text)
		}
	}
	r := &report{NoCeiling: "skipped: taskset is not installed"}
	if text := r.markdown(); !strings.Contains(text, "Not measured: skipped: taskset is not installed.") {
		t.Error(text)
	}
}

func TestJSON(t *testing.T) {
	text, err := json.Marshal(sampleReport())
	var back report
	if err != nil || json.Unmarshal(text, &back) != nil || back.markdown() != sampleReport().markdown() {
		t.Errorf("%s %v", text, err)
	}
}

// TestChart writes the chart to the file that BENCH_CHART names, if it is set.
func TestChart(t *testing.T) {
	r := sampleReport()
	if !r.charted() {
		t.Fatal("no chart of a full report")
	}
	svg := chart(r)
	if file := os.Getenv("BENCH_CHART"); file != "" {
		if err := os.WriteFile(file, []byte(svg), 0o644); err != nil {
			t.Error(err)
		}
	}
	decoder, rects := xml.NewDecoder(strings.NewReader(svg)), 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "rect" {
			rects++
		}
	}
	if want := 1 + 5*len(onRedis); rects != want { // the background and the bars
		t.Errorf("%d rectangles, not %d", rects, want)
	}
	for _, want := range []string{`role="img"`, "<title", "<desc", "prefers-color-scheme: dark", "130 %"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"950": amount(950), "9.5k": amount(9500), "10k": amount(9960), "129k": amount(129_400),
		"1.0M": amount(999_900), "4.6M": amount(4_600_000),
		"61 ns": latency(61), "1.0 µs": latency(1000), "72 µs": latency(72_400), "4.6 ms": latency(4_600_000),
		"2.5 s": latency(2_500_000_000),
		"7":     thousands(7), "128": thousands(128), "1,000": thousands(1000), "1,130,848": thousands(1_130_848),
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
