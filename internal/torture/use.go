package torture

import (
	"fmt"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Use is how a share of the calls uses a limiter.
type Use struct {
	Name     string
	Share    int // of the calls, relative to the shares of the other uses
	Keys     int // the number of keys, of which each call has one
	Limits   []core.Limit
	Costs    []int   // of which each call has one
	Returned float64 // the share of the admissions that are given back, or settled, at once
	Settled  bool    // whether they are settled, to any cost up to twice what was charged
}

func (u Use) key(i int) string { return fmt.Sprint(u.Name, i) }

func (u Use) keys() (keys []string) {
	for i := range u.Keys {
		keys = append(keys, u.key(i))
	}
	return keys
}

// shortest returns the shortest window of the limits.
func (u Use) shortest() time.Duration {
	shortest := u.Limits[0].Window
	for _, limit := range u.Limits {
		shortest = min(shortest, limit.Window)
	}
	return shortest
}
