package model

import (
	"hash/maphash"
	"slices"
)

// Explore visits every state that can be reached, nearest first. If one breaks a promise, it returns which, and the
// shortest way there. It returns how many states there are, or were until then.
func Explore(c *Config) (states int, broken string, way []string) {
	type arrival struct {
		from uint64
		what string
	}
	seed := maphash.MakeSeed()
	start := state{}
	seen := map[uint64]arrival{maphash.Comparable(seed, start): {}}
	for now := []state{start}; len(now) > 0; {
		var next []state
		for _, s := range now {
			from := maphash.Comparable(seed, s)
			for _, m := range c.moves(s) {
				to := maphash.Comparable(seed, m.after)
				if m.broken != "" {
					way = append(way, m.what)
					for at := from; seen[at].what != ""; at = seen[at].from {
						way = append(way, seen[at].what)
					}
					slices.Reverse(way)
					return len(seen), m.broken, way
				}
				if _, found := seen[to]; !found {
					seen[to] = arrival{from, m.what}
					next = append(next, m.after)
				}
			}
		}
		now = next
	}
	return len(seen), "", nil
}
