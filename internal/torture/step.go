package torture

import (
	"slices"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Step is a step of the servers' clocks.
type Step struct {
	From, To int64 // the machine's clock before and after the step, in microseconds
	Offset   int64 // how far the servers' clocks are ahead of the machine's after the step, in microseconds
	// Recorded is how much was recorded in each log before the step, or before From. A step forward needs none.
	Recorded map[string]int
}

// Excused counts the denials that Unfounded does not check, because of a step of the clock.
func (h History) Excused() int {
	n := 0
	for _, call := range h.Calls {
		if call.known() && !call.Allowed && h.excused(call) {
			n++
		}
	}
	return n
}

// excused reports whether a step of the clock may have caused a denial. After a step back, a log holds entries from
// what is now the future. They expire within a window after the first denial, which comes soon if there are many calls.
// After a step forward, the denial cache denies for as long as it was told before the step, which is right by a clock
// that did not step.
func (h History) excused(call Call) bool {
	window, before := h.Window.Microseconds(), int64(0)
	for _, step := range h.Steps {
		back := before - step.Offset
		before = step.Offset
		if back < 0 && call.Source != Cache {
			continue
		}
		if call.Came >= step.From && call.Sent <= step.To+min(max(0, back), window)+window {
			return true
		}
	}
	return false
}

// offsets returns how far the servers' clocks may have been ahead during a call, as if they never stepped back.
func (h History) offsets(call Call) (offsets []int64) {
	offset := int64(0)
	for _, step := range h.Steps {
		if step.Offset < offset {
			continue
		}
		if call.Sent <= step.To {
			offsets = append(offsets, offset)
		}
		if call.Came < step.From {
			return offsets
		}
		offset = step.Offset
	}
	return append(offsets, offset)
}

// unstepped returns what a server recorded in a log, in the order of the record, as if its clock had never stepped
// back. After a step back, the same times come once more.
func (h History) unstepped(log string, admitted []redistest.Admission) []redistest.Admission {
	admitted = slices.Clone(admitted)
	offset := int64(0)
	for _, step := range h.Steps {
		back := offset - step.Offset
		if back > 0 {
			i := min(step.Recorded[log], len(admitted))
			for i < len(admitted) && admitted[i].At >= step.From+offset && admitted[i].At <= step.To+offset {
				i++ // recorded during the step, by the clock before it
			}
			for ; i < len(admitted); i++ {
				admitted[i].At += back
			}
			continue // the clock is now as it was
		}
		offset = step.Offset
	}
	return admitted
}
