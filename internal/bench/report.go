package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured. A ratio is the rate of exactlimit divided by that of the contender. In JSON,
// times are in nanoseconds.
type report struct {
	Machine   machine
	Command   string
	Rounds    int
	Turn      time.Duration
	Took      time.Duration
	Scenarios []result
	Ceiling   *ceiling    `json:",omitempty"`
	NoCeiling string      `json:",omitempty"` // why there is no Ceiling
	OnRedis   []exactness `json:",omitempty"`
	InMemory  []exactness `json:",omitempty"`
	Bytes     []footprint `json:",omitempty"`

	Against    string      `json:",omitempty"` // the root of the other checkout
	OtherBytes []footprint `json:",omitempty"` // of the other checkout
}

// machine describes where the report was made.
type machine struct {
	CPU, OS, Go, Redis string
	Cores              int
	Modules            []module
}

type module struct{ Path, Version string }

// result is the result of a scenario.
type result struct {
	Name, About string
	Goroutines  int
	Rows        []row
}

// row is the result of a contender in a scenario: medians over the rounds, unless stated otherwise.
type row struct {
	Contender string
	How       string
	Reference bool
	PerSecond float64
	Rates     []float64 // of each round
	Ratio     float64   // of rates in the same round
	P50, P99  time.Duration
	Samples   int // calls timed in a turn
	Allocs    float64
	Denied    float64       // share of the requests
	RedisCPU  time.Duration // for each request

	// Sums over the rounds.
	Requests, Local, Failed int
	Failure                 string
	Diagnostics             diagnostics
}

// exactness is the most that a contender admitted in one window.
type exactness struct {
	Contender string
	How       string
	Limit     int
	Worst     int
	Admitted  map[string]int // by pattern
}

// describe returns the description of this machine.
func describe(redis *server) machine {
	m := machine{CPU: cpu(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Redis: redis.version(), Cores: runtime.NumCPU()}
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return m
	}
	for _, dependency := range info.Deps {
		used := func(c contender) bool { return c.module == dependency.Path && c.name != ours }
		client := slices.Contains([]string{"github.com/redis/rueidis", "github.com/redis/go-redis/v9"}, dependency.Path)
		if client || slices.ContainsFunc(slices.Concat(onRedis, inMemory, throughGin, throughEcho, services), used) {
			m.Modules = append(m.Modules, module{dependency.Path, dependency.Version})
		}
	}
	return m
}

// cpu returns the model of the processor.
func cpu() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, model, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

// scenario returns the result of the named scenario, or nil if it was not run.
func (r *report) scenario(name string) *result {
	if i := slices.IndexFunc(r.Scenarios, func(s result) bool { return s.Name == name }); i >= 0 {
		return &r.Scenarios[i]
	}
	return nil
}

// some returns the results of the named scenarios that were run.
func (r *report) some(names ...string) []result {
	var results []result
	for _, name := range names {
		if s := r.scenario(name); s != nil {
			results = append(results, *s)
		}
	}
	return results
}
