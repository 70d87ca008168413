package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// markdown returns the report in Markdown.
func (r *report) markdown() string {
	var b strings.Builder
	r.writeHead(&b)
	r.writeRedis(&b)
	r.writeOverload(&b)
	r.writeInProcess(&b)
	r.writeThroughFrameworks(&b)
	if problems := r.problems(); problems != "" {
		fmt.Fprintf(&b, "\n## Problems\n\n%s", problems)
	}
	if len(r.Scenarios) > 0 {
		fmt.Fprintf(&b, "\n## How steady it was\n\nexactlimit's best round divided by its worst:%s.\n", r.steadiness())
	}
	r.writeCeiling(&b)
	r.writeExactness(&b)
	r.writeBytes(&b)
	return b.String()
}

// writeHead writes how the report was made.
func (r *report) writeHead(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "# exactlimit and others\n\n")
	fmt.Fprintf(b, "`%s` on %s, %d cores, %s; %s, Redis %s on the same cores."+
		" %d rounds, in each of which every contender has a turn of %v."+
		" Medians over the rounds; a ratio is exactlimit's rate divided by the other's in the same round. Took %v.\n\n",
		r.Command, m.CPU, m.Cores, m.OS, m.Go, m.Redis, r.Rounds, r.Turn, r.Took.Round(time.Second))
	var versions []string
	for _, v := range m.Modules {
		versions = append(versions, strings.TrimPrefix(v.Path, "github.com/")+" "+v.Version)
	}
	fmt.Fprintf(b, "Versions: %s.\n", strings.Join(versions, ", "))
	if r.Against != "" {
		fmt.Fprintf(b, "\nother is exactlimit of %s.\n", r.Against)
	}
	pipelined := func(x row) bool { return strings.Contains(x.Contender, "+AP") }
	if slices.ContainsFunc(r.Scenarios, func(s result) bool { return slices.ContainsFunc(s.Rows, pipelined) }) {
		fmt.Fprintf(b,
			"\n+AP is on go-redis's AutoPipeline with the options that it recommends, which keep the order of calls; "+
				"+AP8 sends %d batches at a time, in any order.\n", unordered.MaxConcurrentBatches)
	}
}

// writeRedis writes the scenarios on Redis with one request after the other.
func (r *report) writeRedis(b *strings.Builder) {
	if busy := r.some("spread/256", "hot", "denied", "zipf"); busy != nil {
		fmt.Fprintf(b, "\n## Decisions per second on Redis, 256 goroutines\n\n")
		throughputTable(b, busy)
	}
	if spread := r.some("spread/256", "spread/8", "spread/1"); len(spread) > 1 {
		fmt.Fprintf(b, "\n## By goroutines\n\n10,000 keys, never at the limit.\n\n")
		for i := range spread {
			spread[i].About = ""
		}
		throughputTable(b, spread)
	}
	if all := r.some("spread/256", "spread/8", "spread/1", "hot", "denied", "zipf"); all != nil {
		fmt.Fprintf(b, "\n## Latency of a decision, p50 / p99\n\n")
		scenarioTable(b, all, func(x row) string { return latency(x.P50) + " / " + latency(x.P99) })
		fmt.Fprintf(b, "\n## CPU time of Redis for a decision\n\n")
		scenarioTable(b, all, func(x row) string { return cpuTime(x.RedisCPU) })
		fmt.Fprintf(b, "\n## Allocations of a decision\n\n")
		scenarioTable(b, all, func(x row) string { return fmt.Sprintf("%.1f", x.Allocs) })
	}
	if s := r.scenario("cluster"); s != nil {
		fmt.Fprintf(b, "\n## Redis Cluster\n\n%s.\n\n", capital(s.About))
		detailTable(b, s.Rows, "counts by", "decisions/s")
	}
	if s := r.scenario("service"); s != nil {
		fmt.Fprintf(b, "\n## A Gin service on Redis\n\n%s.\n\n", capital(s.About))
		detailTable(b, s.Rows, "writes", "requests/s")
	}
}

func (r *report) writeOverload(b *strings.Builder) {
	for _, s := range r.some("overload/3ms", "overload/10ms") {
		fmt.Fprintf(b, "\n## %s\n\n%s. Calls to the others have a deadline of %v, which is exactlimit's own timeout. "+
			"go-redis's AutoPipeline does not obey it.\n\n", capital(s.Name), capital(s.About), peerDeadline)
		fmt.Fprintf(b,
			"| | decisions | without Redis | failed | p50 | p99 | circuit breaker |\n"+
				"|---|---:|---:|---:|---:|---:|---|\n")
		for _, x := range s.Rows {
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", bold(x.Contender), thousands(x.Requests),
				share(x.Local, x.Requests), share(x.Failed, x.Requests), latency(x.P50), latency(x.P99), x.breaker())
		}
	}
}

func (r *report) writeInProcess(b *strings.Builder) {
	s := r.scenario("memory")
	if s == nil {
		return
	}
	fmt.Fprintf(b, "\n## In one process\n\n%s.\n\n", capital(s.About))
	fmt.Fprintf(b,
		"| | counts by | decisions/s | ratio | time of a decision | allocations |\n|---|---|---:|---:|---:|---:|\n")
	for _, x := range s.Rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %.1f |\n", bold(x.Contender), x.How, amount(x.PerSecond), x.ratio(),
			latency(time.Duration(float64(s.Goroutines)*1e9/x.PerSecond)), x.Allocs)
	}
	fmt.Fprintf(b, "\nThe time is that of one goroutine: time passed × %d goroutines / decisions.\n", s.Goroutines)
}

func (r *report) writeThroughFrameworks(b *strings.Builder) {
	for _, s := range r.some("gin/256", "gin/1", "echo/256", "echo/1") {
		fmt.Fprintf(b, "\n## %s\n\n", capital(s.About))
		fmt.Fprintf(b, "| | writes | requests/s | ratio | time of a request | allocations |\n"+
			"|---|---|---:|---:|---:|---:|\n")
		for _, x := range s.Rows {
			fmt.Fprintf(b, "| %s | %s | %s | %s | %.0f ns | %.1f |\n", bold(x.Contender), x.How, amount(x.PerSecond),
				x.ratio(), float64(min(s.Goroutines, r.Machine.Cores))*1e9/x.PerSecond, x.Allocs)
		}
	}
}

func (r *report) writeCeiling(b *strings.Builder) {
	const heading = "\n## Compared with the most that Redis can do\n\n"
	if c := r.Ceiling; c != nil {
		fmt.Fprintf(b, heading+"Redis has one core to itself. "+
			"On another core runs redis-benchmark, with 20 connections of 32 calls each, "+
			"or exactlimit, with 256 goroutines. 10,000 keys.\n\n")
		fmt.Fprintf(b,
			"| | per second |\n|---|---:|\n| a script that returns 1 | %s |\n"+
				"| a script of the five commands alone | %s |\n"+
				"| the decision script, 1 question in a call | %s |\n"+
				"| the decision script, %d questions in a call | %s |\n"+
				"| **exactlimit, through Go** | %s |\n\n"+
				"Through Go, %.2f of the decision script's own rate with %d questions in a call.\n",
			amount(c.Nothing), amount(c.Bare), amount(c.One), batch, amount(c.Batch), amount(c.Go), c.Ratio, batch)
	}
	if r.NoCeiling != "" {
		fmt.Fprintf(b, heading+"Not measured: %s.\n", r.NoCeiling)
	}
}

func (r *report) writeExactness(b *strings.Builder) {
	if r.OnRedis == nil {
		return
	}
	fmt.Fprintf(b, "\n## The most admitted in any window under a limit of %d per %v\n\n", accuracyMax, accuracyWindow)
	fmt.Fprintf(b, "Only admissions count that are certainly within one window, whenever between request and"+
		" response they were decided.\n\n")
	exactnessTable(b, "on Redis", r.OnRedis)
	fmt.Fprintln(b)
	exactnessTable(b, "in one process", r.InMemory)
	fmt.Fprintf(b, "\nborder: before and after the end of a fixed window, then twice the rate. "+
		"steady: twice the rate. "+
		"burst: 400 requests of 256 goroutines at once. at two: the same at two instances.\n")
}

func (r *report) writeBytes(b *strings.Builder) {
	if r.Bytes == nil {
		return
	}
	fmt.Fprintf(b, "\n## Bytes of a full log\n\n")
	footprintTable(b, r.Bytes)
	if r.OtherBytes != nil {
		fmt.Fprintf(b, "\nOf other:\n\n")
		footprintTable(b, r.OtherBytes)
	}
}

// problems lists what exactlimit logged, failed calls and, except in the scenarios named overload, decisions without
// Redis.
func (r *report) problems() string {
	var b strings.Builder
	for _, s := range r.Scenarios {
		for _, x := range s.Rows {
			if x.Local > 0 && !strings.HasPrefix(s.Name, "overload") {
				fmt.Fprintf(&b, "- %s: %s made %d of %d decisions without Redis.\n",
					s.Name, x.Contender, x.Local, x.Requests)
			}
			for _, message := range slices.Sorted(maps.Keys(x.Diagnostics.Warnings)) {
				fmt.Fprintf(&b, "- %s: %s logged %d times: %s\n",
					s.Name, x.Contender, x.Diagnostics.Warnings[message], message)
			}
			if x.Failure != "" {
				fmt.Fprintf(&b, "- %s: a call of %s failed: %s\n", s.Name, x.Contender, x.Failure)
			}
		}
	}
	return b.String()
}

// breaker describes how long the circuit breaker of exactlimit was open. If that was short, only the log or only the
// metric may show it.
func (x row) breaker() string {
	logged := 0
	for _, n := range x.Diagnostics.Warnings {
		logged += n
	}
	switch {
	case x.Contender != ours && x.Contender != "other":
		return ""
	case logged == 0 && x.Diagnostics.Outage == 0:
		return "never open"
	}
	return fmt.Sprintf("open for %s, %d warnings", latency(x.Diagnostics.Outage), logged)
}

// steadiness lists the best rate of exactlimit divided by its worst, for each scenario. Smaller differences between
// contenders may be noise.
func (r *report) steadiness() string {
	var b strings.Builder
	for i, s := range r.Scenarios {
		if rates := s.Rows[0].Rates; len(rates) > 0 {
			fmt.Fprintf(&b, "%s %s %.2f", comma(i), s.Name, slices.Max(rates)/slices.Min(rates))
		}
	}
	return b.String()
}
