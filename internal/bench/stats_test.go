package main

import (
	"context"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, c := range []struct {
		sorted []int
		q      float64
		want   int
	}{
		{nil, 0.5, 0}, {[]int{7}, 0.99, 7}, {hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0, 1}, {hundred, 1,
			100}, {[]int{1, 2, 3}, 0.5, 2},
	} {
		if got := quantile(c.sorted, c.q); got != c.want {
			t.Errorf("quantile %v of %d values = %v, want %v", c.q, len(c.sorted), got, c.want)
		}
	}
}

// A round in which the machine was slow for both has the same ratio as others.
func TestRatios(t *testing.T) {
	if got := median(ratios([]float64{100, 50, 98}, []float64{50, 25, 10})); got != 2 {
		t.Error(got)
	}
}

func TestLoad(t *testing.T) {
	errs := error(nil)
	l := &limiter{allow: func(_ context.Context, key string) (bool, error) { return key != "user-1", errs }}
	r, err := run(l, inTurn(numbered("user-%d", 2), 2), 20*time.Millisecond, nil)
	if err != nil || r.Requests == 0 || r.Timed == 0 || r.Denied < r.Requests/3 || r.Denied > 2*r.Requests/3 {
		t.Error(r.Requests, r.Denied, r.Timed, err)
	}
	if r.per(float64(r.Mallocs)) > 0.1 {
		t.Errorf("the load itself makes %.2f allocations for each call", r.per(float64(r.Mallocs)))
	}
	errs = errSkipped
	if _, err := run(l, inTurn(numbered("user-%d", 2), 2), 20*time.Millisecond, nil); err != errSkipped {
		t.Error(err)
	}
}
