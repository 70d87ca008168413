package dispatch

import (
	"slices"

	"github.com/redis/rueidis"
)

// worker takes questions from the queue of its link, and makes as few calls of them as possible, which it sends
// together. To a single server it sends one call. To Redis Cluster it sends one call for each slot.
type worker[Q Question[Q]] struct {
	link      *link[Q]
	newBatch  func() Batch[Q]
	questions []Q
	calls     []*call[Q] // for reuse
}

func newWorker[Q Question[Q]](l *link[Q]) *worker[Q] {
	return &worker[Q]{link: l, newBatch: l.d.Batches()}
}

// work runs a worker until the link is closed. It drops questions whose callers no longer wait. It resends failed calls
// in the background, so that they do not delay others.
func (l *link[Q]) work() {
	w := newWorker(l)
	for ok := true; ok; {
		w.questions, ok = l.take(w.questions[:0])
		w.questions = slices.DeleteFunc(w.questions, func(q Q) bool { return !q.future().send() })
		if len(w.questions) == 0 {
			continue
		}
		client, err := l.d.Client()
		if err == nil {
			err = l.breaker.allow()
		}
		if err != nil {
			for _, q := range w.questions {
				q.future().answer(err)
			}
		} else if failed := l.send(client, w.encode(client)); len(failed) > 0 {
			l.background.Go(func() { l.resend(client, failed) })
			w = newWorker(l) // because the failed calls use the memory of this one
		}
		clear(w.questions)
	}
}

// encode returns calls that ask the questions.
func (w *worker[Q]) encode(client rueidis.Client) []*call[Q] {
	if client.Mode() == rueidis.ClientModeCluster {
		slices.SortStableFunc(w.questions, compareSlots[Q])
		w.link.d.nodes.refresh(w.link.d, client)
	}
	n, now := 0, w.link.d.Now()
	for rest := w.questions; len(rest) > 0; n++ {
		if n == len(w.calls) {
			w.calls = append(w.calls, &call[Q]{batch: w.newBatch()})
		}
		count := 1
		for count < len(rest) && canShareCall(rest[0], rest[count]) {
			count++
		}
		w.calls[n].encode(rest[:count], now)
		rest = rest[count:]
	}
	return w.calls[:n]
}

// compareSlots orders questions so that those that can share a call are next to each other.
func compareSlots[Q Question[Q]](a, b Q) int {
	s, t := a.future(), b.future()
	if s.slot == t.slot && s.alone != t.alone {
		if s.alone {
			return 1
		}
		return -1
	}
	return s.slot - t.slot
}

// canShareCall reports whether two questions may be asked in one call.
func canShareCall[Q Question[Q]](a, b Q) bool {
	s, t := a.future(), b.future()
	return s.slot == t.slot && s.alone == t.alone && (!s.alone || b.Alike(a))
}
