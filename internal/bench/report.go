package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured. Ratios are ours over the contender's; times are nanoseconds in JSON.
type report struct {
	Machine   machine
	Command   string
	Rounds    int
	Turn      time.Duration
	Took      time.Duration
	Scenarios []result
	Ceiling   *ceiling    `json:",omitempty"`
	NoCeiling string      `json:",omitempty"` // why
	OnRedis   []exactness `json:",omitempty"`
	InMemory  []exactness `json:",omitempty"`
	Bytes     []footprint `json:",omitempty"`

	Against    string      `json:",omitempty"` // root of the other checkout
	OtherBytes []footprint `json:",omitempty"` // its
}

type machine struct {
	CPU, OS, Go, Redis string
	Cores              int
	Modules            []module
}

type module struct{ Path, Version string }

// result is a scenario's: medians over the rounds.
type result struct {
	Name, About string
	Goroutines  int
	Rows        []row
}

type row struct {
	Contender string
	How       string
	Reference bool
	PerSecond float64
	Rates     []float64 // of each round
	Ratio     float64   // ours over this one's, in the same round
	P50, P99  time.Duration
	Samples   int // calls timed in a turn
	Allocs    float64
	Denied    float64       // share of the requests
	RedisCPU  time.Duration // for each request

	// Sums over the rounds.
	Asked, Local, Failed int
	Failure              string
	Said                 diagnostics
}

// exactness is the most that a contender let into one window.
type exactness struct {
	Contender string
	How       string
	Asked     int
	Worst     int
	Admitted  map[string]int // by pattern
}

func describe(redis *server) machine {
	m := machine{CPU: cpu(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), Redis: redis.version(), Cores: runtime.NumCPU()}
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

func cpu() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, model, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

func (r *report) scenario(name string) *result {
	if i := slices.IndexFunc(r.Scenarios, func(s result) bool { return s.Name == name }); i >= 0 {
		return &r.Scenarios[i]
	}
	return nil
}

// some returns those of the named scenarios that were run.
func (r *report) some(names ...string) []result {
	var results []result
	for _, name := range names {
		if s := r.scenario(name); s != nil {
			results = append(results, *s)
		}
	}
	return results
}

func (r *report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# exactlimit and others\n\n")
	fmt.Fprintf(&b, "`%s` on %s, %d cores, %s; %s, Redis %s on the same cores. %d rounds, in each of which every contender has a turn of %v. "+
		"Medians over the rounds; a ratio is exactlimit's rate over the other's in the same round. Took %v.\n\n",
		r.Command, m.CPU, m.Cores, m.OS, m.Go, m.Redis, r.Rounds, r.Turn, r.Took.Round(time.Second))
	var versions []string
	for _, v := range m.Modules {
		versions = append(versions, strings.TrimPrefix(v.Path, "github.com/")+" "+v.Version)
	}
	fmt.Fprintf(&b, "Versions: %s.\n", strings.Join(versions, ", "))
	if r.Against != "" {
		fmt.Fprintf(&b, "\nother is exactlimit of %s.\n", r.Against)
	}
	pipelined := func(x row) bool { return strings.Contains(x.Contender, "+AP") }
	if slices.ContainsFunc(r.Scenarios, func(s result) bool { return slices.ContainsFunc(s.Rows, pipelined) }) {
		fmt.Fprintf(&b, "\n+AP is on go-redis's AutoPipeline with the options that it recommends, which keep the order of calls; "+
			"+AP8 sends %d batches at a time, in any order.\n", unordered.MaxConcurrentBatches)
	}

	if busy := r.some("spread/256", "hot", "denied", "zipf"); busy != nil {
		fmt.Fprintf(&b, "\n## Decisions per second on Redis, 256 goroutines\n\n")
		throughput(&b, busy)
	}
	if few := r.some("spread/256", "spread/8", "spread/1"); len(few) > 1 {
		fmt.Fprintf(&b, "\n## By goroutines\n\n10,000 keys, never at the limit.\n\n")
		for i := range few {
			few[i].About = ""
		}
		throughput(&b, few)
	}
	redis := r.some("spread/256", "spread/8", "spread/1", "hot", "denied", "zipf")
	if redis != nil {
		fmt.Fprintf(&b, "\n## Latency of a decision, p50 / p99\n\n")
		columns(&b, redis, func(x row) string { return latency(x.P50) + " / " + latency(x.P99) })
		fmt.Fprintf(&b, "\n## CPU time of Redis for a decision\n\n")
		columns(&b, redis, func(x row) string { return cpuTime(x.RedisCPU) })
		fmt.Fprintf(&b, "\n## Allocations of a decision\n\n")
		columns(&b, redis, func(x row) string { return fmt.Sprintf("%.1f", x.Allocs) })
	}
	if s := r.scenario("cluster"); s != nil {
		fmt.Fprintf(&b, "\n## Redis Cluster\n\n%s.\n\n", capital(s.About))
		remote(&b, s.Rows, "counts by", "decisions/s")
	}
	if s := r.scenario("service"); s != nil {
		fmt.Fprintf(&b, "\n## A Gin service on Redis\n\n%s.\n\n", capital(s.About))
		remote(&b, s.Rows, "writes", "requests/s")
	}
	for _, s := range r.some("overload/3ms", "overload/10ms") {
		fmt.Fprintf(&b, "\n## %s\n\n%s. Callers of the others set a deadline of %v, which is exactlimit's own timeout. "+
			"go-redis's AutoPipeline does not keep to it.\n\n", capital(s.Name), capital(s.About), peerDeadline)
		fmt.Fprintf(&b, "| | decisions | without Redis | failed | p50 | p99 | circuit breaker |\n|---|---:|---:|---:|---:|---:|---|\n")
		for _, x := range s.Rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", strong(x.Contender), thousands(x.Asked),
				share(x.Local, x.Asked), share(x.Failed, x.Asked), latency(x.P50), latency(x.P99), x.breaker())
		}
	}
	if s := r.scenario("memory"); s != nil {
		fmt.Fprintf(&b, "\n## In one process\n\n%s.\n\n", capital(s.About))
		fmt.Fprintf(&b, "| | counts by | decisions/s | ratio | a decision takes | allocations |\n|---|---|---:|---:|---:|---:|\n")
		for _, x := range s.Rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.1f |\n", strong(x.Contender), x.How, amount(x.PerSecond), x.ratio(),
				latency(time.Duration(float64(s.Goroutines)*1e9/x.PerSecond)), x.Allocs)
		}
		fmt.Fprintf(&b, "\nThe time is that of one goroutine: time passed × %d goroutines / decisions.\n", s.Goroutines)
	}
	for _, s := range r.some("gin/256", "gin/1", "echo/256", "echo/1") {
		fmt.Fprintf(&b, "\n## %s\n\n", capital(s.About))
		fmt.Fprintf(&b, "| | writes | requests/s | ratio | a request takes | allocations |\n|---|---|---:|---:|---:|---:|\n")
		for _, x := range s.Rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0f ns | %.1f |\n", strong(x.Contender), x.How, amount(x.PerSecond), x.ratio(), float64(min(s.Goroutines, m.Cores))*1e9/x.PerSecond, x.Allocs)
		}
	}
	if trouble := r.trouble(); trouble != "" {
		fmt.Fprintf(&b, "\n## Trouble\n\n%s", trouble)
	}
	if len(r.Scenarios) > 0 {
		fmt.Fprintf(&b, "\n## How steady it was\n\nexactlimit's best round over its worst:%s.\n", r.steadiness())
	}
	if c := r.Ceiling; c != nil {
		fmt.Fprintf(&b, "\n## Against the most that Redis can do\n\n")
		fmt.Fprintf(&b, "Redis alone on one core; on another redis-benchmark, with 20 connections of 32 calls each, or exactlimit, with 256 goroutines. 10,000 keys.\n\n")
		fmt.Fprintf(&b, "| | per second |\n|---|---:|\n| a script that returns 1 | %s |\n| a script of the five commands alone | %s |\n"+
			"| the decision script, 1 question in a call | %s |\n| the decision script, %d questions in a call | %s |\n"+
			"| **exactlimit, through Go** | %s |\n\nThrough Go, %.2f of the decision script's own with %d questions in a call.\n",
			amount(c.Nothing), amount(c.Bare), amount(c.One), batch, amount(c.Batch), amount(c.Go), c.Ratio, batch)
	}
	if r.NoCeiling != "" {
		fmt.Fprintf(&b, "\n## Against the most that Redis can do\n\nNot measured: %s.\n", r.NoCeiling)
	}
	if r.OnRedis != nil {
		fmt.Fprintf(&b, "\n## The most admitted in any window, where %d per %v were asked for\n\n", accuracyMax, accuracyWindow)
		fmt.Fprintf(&b, "Counted are admissions that surely lie within one window, whenever between request and answer they were decided.\n\n")
		exact(&b, "on Redis", r.OnRedis)
		fmt.Fprintln(&b)
		exact(&b, "in one process", r.InMemory)
		fmt.Fprintf(&b, "\nborder: before and behind the end of a fixed window, then twice the rate. steady: twice the rate. "+
			"burst: 400 requests of 256 goroutines at once. at two: the same at two instances.\n")
	}
	if r.Bytes != nil {
		fmt.Fprintf(&b, "\n## Bytes of a full log\n\n")
		footprintTable(&b, r.Bytes)
		if r.OtherBytes != nil {
			fmt.Fprintf(&b, "\nOf other:\n\n")
			footprintTable(&b, r.OtherBytes)
		}
	}
	return b.String()
}

// trouble lists what exactlimit said while it was measured, and decisions made without Redis, outside of the overload.
func (r *report) trouble() string {
	var b strings.Builder
	for _, s := range r.Scenarios {
		for _, x := range s.Rows {
			if x.Local > 0 && !strings.HasPrefix(s.Name, "overload") {
				fmt.Fprintf(&b, "- %s: %s made %d of %d decisions without Redis.\n", s.Name, x.Contender, x.Local, x.Asked)
			}
			for _, message := range slices.Sorted(maps.Keys(x.Said.Warnings)) {
				fmt.Fprintf(&b, "- %s: %s logged %d times: %s\n", s.Name, x.Contender, x.Said.Warnings[message], message)
			}
			if x.Failure != "" {
				fmt.Fprintf(&b, "- %s: a call of %s failed: %s\n", s.Name, x.Contender, x.Failure)
			}
		}
	}
	return b.String()
}

// breaker says what exactlimit told of its circuit breaker. A short opening may be in the logs alone, or in the metric
// alone.
func (x row) breaker() string {
	logged := 0
	for _, n := range x.Said.Warnings {
		logged += n
	}
	switch {
	case x.Contender != ours && x.Contender != "other":
		return ""
	case logged == 0 && x.Said.Outage == 0:
		return "never open"
	}
	return fmt.Sprintf("open for %s, %d warnings", latency(x.Said.Outage), logged)
}

func share(n, of int) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(of))
}

// cpuTime writes a time with three digits, since that of Redis is steadier than others.
func cpuTime(d time.Duration) string { return fmt.Sprintf("%.2f µs", float64(d)/1000) }

func footprintTable(b *strings.Builder, all []footprint) {
	fmt.Fprintf(b, "| Max | in Redis | for each request | in process | for each request |\n|---:|---:|---:|---:|---:|\n")
	for _, f := range all {
		if f.Hot {
			fmt.Fprintf(b, "| %s, hot | %s | %.1f | | |\n", thousands(f.Max), thousands(int(f.Redis)), f.PerRedis)
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %.0f | %s | %.0f |\n", thousands(f.Max), thousands(int(f.Redis)), f.PerRedis,
			thousands(int(f.InProcess)), f.PerMemory)
	}
	fmt.Fprintf(b, "\nOne request at a time has filled the logs, and 256 goroutines at once the hot one.\n")
}

// steadiness tells noise from news: what differs by less than the rounds of one contender do says little.
func (r *report) steadiness() string {
	var b strings.Builder
	for i, s := range r.Scenarios {
		if rates := s.Rows[0].Rates; len(rates) > 0 {
			fmt.Fprintf(&b, "%s %s %.2f", comma(i), s.Name, slices.Max(rates)/slices.Min(rates))
		}
	}
	return b.String()
}

func throughput(b *strings.Builder, results []result) {
	columns(b, results, func(x row) string {
		if x.Contender == ours {
			return amount(x.PerSecond)
		}
		return fmt.Sprintf("%s · %s", amount(x.PerSecond), x.ratio())
	})
	for _, s := range results {
		if s.About != "" {
			fmt.Fprintf(b, "\n- %s: %s", s.Name, s.About)
			if denied := s.Rows[0].Denied; denied > 0 && denied < 0.99 {
				fmt.Fprintf(b, "; %.0f %% denied by exactlimit", 100*denied)
			}
		}
	}
	if results[0].About != "" {
		fmt.Fprintln(b)
	}
}

// remote writes a table with everything about one scenario on Redis.
func remote(b *strings.Builder, rows []row, how, rate string) {
	fmt.Fprintf(b, "| | %s | %s | ratio | p50 | p99 | CPU of Redis | allocations |\n", how, rate)
	fmt.Fprintf(b, "|---|---|---:|---:|---:|---:|---:|---:|\n")
	for _, x := range rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %.1f |\n", strong(x.Contender), x.How,
			amount(x.PerSecond), x.ratio(), latency(x.P50), latency(x.P99), cpuTime(x.RedisCPU), x.Allocs)
	}
}

// columns writes a table with a row for each contender and a column for each scenario.
func columns(b *strings.Builder, results []result, cell func(row) string) {
	fmt.Fprint(b, "| | counts by |")
	for _, s := range results {
		fmt.Fprintf(b, " %s |", s.Name)
	}
	fmt.Fprintf(b, "\n|---|---|%s\n", strings.Repeat("---:|", len(results)))
	for i, x := range results[0].Rows {
		fmt.Fprintf(b, "| %s | %s |", strong(x.Contender), x.How)
		for _, s := range results {
			fmt.Fprintf(b, " %s |", cell(s.Rows[i]))
		}
		fmt.Fprintln(b)
	}
}

func exact(b *strings.Builder, where string, all []exactness) {
	fmt.Fprintf(b, "| %s | counts by | worst |", where)
	for _, p := range patterns() {
		fmt.Fprintf(b, " %s |", p.name)
	}
	fmt.Fprintf(b, "\n|---|---|---:|%s\n", strings.Repeat("---:|", len(patterns())))
	for _, e := range all {
		fmt.Fprintf(b, "| %s | %s | %d / %d |", strong(e.Contender), e.How, e.Worst, e.Asked)
		for _, p := range patterns() {
			if n := e.Admitted[p.name]; n > 0 {
				fmt.Fprintf(b, " %d |", n)
			} else {
				fmt.Fprint(b, " |")
			}
		}
		fmt.Fprintln(b)
	}
}

func (x row) ratio() string {
	switch {
	case x.Contender == ours || x.Reference:
		return ""
	case x.Ratio >= 100:
		return fmt.Sprintf("%.0f×", x.Ratio)
	case x.Ratio >= 10:
		return fmt.Sprintf("%.1f×", x.Ratio)
	}
	return fmt.Sprintf("%.2f×", x.Ratio)
}

func strong(name string) string {
	if name == ours {
		return "**" + name + "**"
	}
	return name
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// amount writes a number with two or three digits: 950, 9.5k, 129k, 4.6M.
func amount(x float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e6, "M"}, {1e3, "k"}} {
		if x >= 0.9995*unit.size {
			if x /= unit.size; x < 9.95 {
				return fmt.Sprintf("%.1f%s", x, unit.name)
			}
			return fmt.Sprintf("%.0f%s", x, unit.name)
		}
	}
	return fmt.Sprintf("%.0f", x)
}

// latency writes a time with two digits or three.
func latency(d time.Duration) string {
	x := float64(d)
	for _, unit := range []string{"ns", "µs", "ms"} {
		if x < 999.5 {
			digits := 0
			if unit != "ns" && x < 9.95 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, x, unit)
		}
		x /= 1000
	}
	return fmt.Sprintf("%.1f s", x)
}

func thousands(n int) string {
	text := fmt.Sprint(int(math.Abs(float64(n))))
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
