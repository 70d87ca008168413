package dispatch

import (
	"slices"

	"github.com/redis/rueidis"
)

// worker takes questions from the queue of its link, and asks them in as few calls as possible, which it sends all at
// once. To a single server it sends one call. In Redis Cluster it sends one call for each slot.
type worker[Q Question[Q]] struct {
	link      *link[Q]
	newBatch  func() Batch[Q]
	questions []Q
	calls     []*call[Q] // for reuse
}

func newWorker[Q Question[Q]](l *link[Q]) *worker[Q] {
	return &worker[Q]{link: l, newBatch: l.d.Batches()}
}

// work runs a worker until the link is closed. It drops questions whose callers no longer wait. Calls that must be sent
// again do not delay others.
func (l *link[Q]) work() {
	w := newWorker(l)
	for ok := true; ok; {
		w.questions, ok = l.take(w.questions[:0])
		w.questions = slices.DeleteFunc(w.questions, func(q Q) bool { return !q.ticket().send() })
		if len(w.questions) == 0 {
			continue
		}
		client, err := l.d.Client()
		if err == nil {
			err = l.breaker.pass()
		}
		if err != nil {
			for _, q := range w.questions {
				q.ticket().answer(err)
			}
		} else if again := l.send(client, w.encode(client)); len(again) > 0 {
			l.workers.Go(func() { l.sendAgain(client, again) })
			w = newWorker(l) // because the failed calls use the memory of this one
		}
		clear(w.questions)
	}
}

// encode returns calls that ask the questions.
func (w *worker[Q]) encode(client rueidis.Client) []*call[Q] {
	if client.Mode() == rueidis.ClientModeCluster {
		slices.SortStableFunc(w.questions, order[Q])
		w.link.d.nodes.keep(w.link.d, client)
	}
	n, now := 0, w.link.d.Now()
	for rest := w.questions; len(rest) > 0; n++ {
		if n == len(w.calls) {
			w.calls = append(w.calls, &call[Q]{batch: w.newBatch()})
		}
		asks := 1
		for asks < len(rest) && goTogether(rest[0], rest[asks]) {
			asks++
		}
		w.calls[n].encode(rest[:asks], now)
		rest = rest[asks:]
	}
	return w.calls[:n]
}

// compareSlots orders questions so that those that can share a call are next to each other.
func order[Q Question[Q]](a, b Q) int {
	s, t := a.ticket(), b.ticket()
	if s.slot == t.slot && s.alone != t.alone {
		if s.alone {
			return 1
		}
		return -1
	}
	return s.slot - t.slot
}

// canShareCall reports whether two questions may be asked in one call.
func goTogether[Q Question[Q]](a, b Q) bool {
	s, t := a.ticket(), b.ticket()
	return s.slot == t.slot && s.alone == t.alone && (!s.alone || b.Alike(a))
}
