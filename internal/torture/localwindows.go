package torture

import (
	"fmt"
	"sync"
	"time"
)

// localWindows checks what one process admits without Redis. It divides time into windows, each of which may hold Max
// units. That takes little memory, and is enough to find a process that admits twice as much.
type localWindows struct {
	uses  []Use
	begun time.Time

	mu         sync.Mutex
	windows    map[[3]int]localWindow // by use, key and limit
	violations []string
}

type localWindow struct {
	number int64
	units  int
}

func (l *localWindows) admitted(u, k, cost int, sent, came time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, limit := range l.uses[u].Limits {
		number := int64(came.Sub(l.begun) / limit.Window)
		if number != int64(sent.Sub(l.begun)/limit.Window) {
			continue // it may be in either
		}
		w := l.windows[[3]int{u, k, i}]
		if w.number != number {
			w = localWindow{number: number}
		}
		w.units += cost
		l.windows[[3]int{u, k, i}] = w
		if w.units > limit.Max && len(l.violations) < 10 {
			l.violations = append(l.violations, fmt.Sprintf(
				"one process without Redis admitted %d units of %s within %v, where %d are allowed",
				w.units, l.uses[u].key(k), limit.Window, limit.Max))
		}
	}
}
