package main

import "slices"

type number interface {
	~int | ~int64 | ~float64
}

// median returns the middle value, or the mean of the middle two, or 0 if there are no values.
func median[T number](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile returns the smallest of the sorted values that at least a share q of them does not exceed, or 0 if there are
// no values.
func quantile[T number](sorted []T, q float64) T {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(q * float64(len(sorted)))
	if float64(rank) == q*float64(len(sorted)) {
		rank--
	}
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// ratios divides our rate in each round by that of a peer in the same round, because the speed of the machine varies.
func ratios(ours, peers []float64) []float64 {
	r := make([]float64, len(ours))
	for i := range ours {
		r[i] = ours[i] / peers[i]
	}
	return r
}
