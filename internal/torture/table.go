package torture

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Row is the summary of a run.
type Row struct {
	Fault    string
	Calls    int
	Errors   int           // calls without a decision
	Local    int           // decisions without Redis
	Admitted int           // units, as the servers recorded them
	Worst    int           // the most units in any window
	Max      int           // how many are allowed
	Latency  time.Duration // the longest call
	Lost     int           // units that servers forgot
}

// Row returns the summary of a run.
func (h History) Row(fault string) Row {
	row := Row{Fault: fault, Calls: len(h.Calls), Max: h.Max, Lost: h.Lost.Units()}
	for _, call := range h.Calls {
		switch {
		case call.Err != "":
			row.Errors++
		case !call.known():
			row.Local++
		}
		row.Latency = max(row.Latency, call.took())
	}
	h.each(func(_ string, admitted []redistest.Admission) {
		row.Admitted += redistest.Units(admitted)
		row.Worst = max(row.Worst, h.worst(admitted).units)
	})
	return row
}

// Table returns rows as a table in Markdown, with aligned columns.
func Table(rows []Row) string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	fmt.Fprintln(out, "| fault\t| calls\t| errors\t| local\t| admitted\t| worst window\t| worst latency\t| lost\t|")
	fmt.Fprintln(out, "|---\t|--:\t|--:\t|--:\t|--:\t|--:\t|--:\t|--:\t|")
	for _, r := range rows {
		fmt.Fprintf(out, "| %s\t| %d\t| %d\t| %d\t| %d\t| %d of %d\t| %v\t| %d\t|\n",
			r.Fault, r.Calls, r.Errors, r.Local, r.Admitted, r.Worst, r.Max,
			r.Latency.Round(100*time.Microsecond), r.Lost)
	}
	out.Flush()
	return text.String()
}
