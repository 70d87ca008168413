package torture

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// soakRow is the summary of all phases with a fault.
type soakRow struct {
	fault      string
	phases     int
	took       time.Duration
	outcomes   Outcomes
	units      int
	fullest    redistest.Worst
	violations int
}

// see records a window if it is the fullest until now.
func (r *soakRow) see(w redistest.Worst) {
	if w.Max > 0 && w.Fuller(r.fullest) {
		r.fullest = w
	}
}

// row returns the row of a fault.
func (s *soak) row(fault string) *soakRow {
	i := slices.IndexFunc(s.rows, func(row *soakRow) bool { return row.fault == fault })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, &soakRow{fault: fault})
	}
	return s.rows[i]
}

// summary returns a line on the soak until now.
func (s *soak) summary(took time.Duration) string {
	const mb = 1 << 20
	n := s.tally.Outcomes.decided()
	return fmt.Sprintf("%v: %d decisions, %.0f a second; %d transactions read; "+
		"at most %d MB of heap here and %d MB of callers, %d MB of Redis, %d MB of files",
		took.Round(time.Second), n, float64(n)/took.Seconds(), s.transactions,
		s.heap/mb, s.theirs/mb, s.redis/mb, s.files/mb)
}

// table returns the rows as a table in Markdown, with aligned columns.
func (s *soak) table(took time.Duration) string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	fmt.Fprint(out, "| fault\t| phases\t| time\t| decisions\t| admitted\t| denied\t| denied by the cache\t")
	fmt.Fprint(out, "| in-process\t| undecided\t| units\t| fullest window\t| violations\t|\n")
	fmt.Fprint(out, "|---\t", strings.Repeat("|--:\t", 11), "|\n")
	all := soakRow{fault: "all"}
	for _, row := range s.rows {
		all.phases += row.phases
		all.took += row.took
		all.outcomes.add(row.outcomes)
		all.units += row.units
		all.see(row.fullest)
		all.violations += row.violations
	}
	for _, r := range append(s.rows, &all) {
		if r.phases+r.violations == 0 {
			continue
		}
		o := r.outcomes
		fmt.Fprintf(out, "| %s\t| %d\t| %v\t| %d\t", r.fault, r.phases, r.took.Round(100*ms), o.decided())
		for _, n := range o {
			fmt.Fprintf(out, "| %d\t", n)
		}
		fmt.Fprintf(out, "| %d\t| %d of %d\t| %d\t|\n", r.units, r.fullest.Units, r.fullest.Max, r.violations)
	}
	out.Flush()
	return text.String() + s.summary(took) + "\n"
}
