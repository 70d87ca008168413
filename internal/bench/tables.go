package main

import (
	"fmt"
	"strings"
)

// footprintTable writes a table of the memory of full logs.
func footprintTable(b *strings.Builder, all []footprint) {
	fmt.Fprintf(b, "| Max | in Redis | for each request | in process | for each request |\n"+
		"|---:|---:|---:|---:|---:|\n")
	for _, f := range all {
		if f.Hot {
			fmt.Fprintf(b, "| %s, hot | %s | %.1f | | |\n", thousands(f.Max), thousands(int(f.Redis)), f.PerRedis)
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %.0f | %s | %.0f |\n", thousands(f.Max), thousands(int(f.Redis)), f.PerRedis,
			thousands(int(f.InProcess)), f.PerMemory)
	}
	fmt.Fprintf(b, "\nThe logs were filled by one request at a time, and the hot one by 256 goroutines at once.\n")
}

// throughputTable writes a table of rates and ratios, and a list of what the scenarios are.
func throughputTable(b *strings.Builder, results []result) {
	scenarioTable(b, results, func(x row) string {
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

// detailTable writes a table with all measurements of a scenario on Redis.
func detailTable(b *strings.Builder, rows []row, how, rate string) {
	fmt.Fprintf(b, "| | %s | %s | ratio | p50 | p99 | CPU of Redis | allocations |\n", how, rate)
	fmt.Fprintf(b, "|---|---|---:|---:|---:|---:|---:|---:|\n")
	for _, x := range rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %.1f |\n", bold(x.Contender), x.How,
			amount(x.PerSecond), x.ratio(), latency(x.P50), latency(x.P99), cpuTime(x.RedisCPU), x.Allocs)
	}
}

// scenarioTable writes a table with a row for each contender and a column for each scenario.
func scenarioTable(b *strings.Builder, results []result, cell func(row) string) {
	fmt.Fprint(b, "| | counts by |")
	for _, s := range results {
		fmt.Fprintf(b, " %s |", s.Name)
	}
	fmt.Fprintf(b, "\n|---|---|%s\n", strings.Repeat("---:|", len(results)))
	for i, x := range results[0].Rows {
		fmt.Fprintf(b, "| %s | %s |", bold(x.Contender), x.How)
		for _, s := range results {
			fmt.Fprintf(b, " %s |", cell(s.Rows[i]))
		}
		fmt.Fprintln(b)
	}
}

// exactnessTable writes a table of the most that contenders admitted in one window.
func exactnessTable(b *strings.Builder, where string, all []exactness) {
	fmt.Fprintf(b, "| %s | counts by | worst |", where)
	for _, p := range patterns() {
		fmt.Fprintf(b, " %s |", p.name)
	}
	fmt.Fprintf(b, "\n|---|---|---:|%s\n", strings.Repeat("---:|", len(patterns())))
	for _, e := range all {
		fmt.Fprintf(b, "| %s | %s | %d / %d |", bold(e.Contender), e.How, e.Worst, e.Limit)
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

// ratio formats the ratio of a row, if it has one.
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
