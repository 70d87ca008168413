package dispatch

import "sync/atomic"

// Future is the Dispatcher's part of a question, which embeds it. It connects the question to the caller that waits for
// the answer. The zero Future is ready for use. It may be used again after Do has returned nil.
type Ticket struct {
	// state holds one of the states below in its lowest bits, and the number of the use in the bits above. The number
	// keeps the clock, which may still have a wait for an earlier use, from ending the wait of a later one.
	state atomic.Uint64
	done  chan struct{} // has an element when the question is answered or expired
	err   error
	slot  int  // of the question, in Redis Cluster
	alone bool // the question may share a call only with questions that are alike
}

// The states of a Future. The caller waits in the first two.
const (
	waiting  = iota // the question is in the queue
	sent            // the question is in a call
	answered        // the answer has come
	expired         // the timeout has passed
	left            // the caller has left, because its context ended

	useBits = 3
	oneUse  = 1 << useBits
)

func (t *Ticket) ticket() *Ticket { return t }

// begin begins a new use of f, for a question to a slot.
func (t *Ticket) begin(slot int) {
	if t.done == nil {
		t.done = make(chan struct{}, 1)
	}
	t.err, t.slot, t.alone = nil, slot, false
	t.state.Store((t.use() + 1) * oneUse)
}

// use returns the number of the current use.
func (t *Ticket) use() uint64 { return t.state.Load() / oneUse }

// is reports whether f is in the given state.
func (t *Ticket) in(state uint64) bool { return t.state.Load()%oneUse == state }

// change changes the state, and reports whether it was as expected.
func (t *Ticket) change(from, to uint64) bool {
	state := t.state.Load()
	return state%oneUse == from && t.state.CompareAndSwap(state, state-from+to)
}

// send marks the question as sent, and reports whether the caller is still waiting.
func (t *Ticket) send() bool { return t.change(waiting, sent) }

// answer ends the wait with an answer or an error, and reports whether the caller was still waiting.
func (t *Ticket) answer(err error) bool {
	if !t.in(sent) {
		return false // without setting err, which the caller may be reading
	}
	t.err = err
	if !t.change(sent, answered) {
		return false
	}
	t.done <- struct{}{}
	return true
}

// pending reports whether the caller is waiting in the given use.
func (t *Ticket) pending(use uint64) bool {
	state := t.state.Load()
	return state/oneUse == use && state%oneUse < answered
}

// end ends the wait of a use by changing to a final state, and reports whether the caller was still waiting.
func (t *Ticket) end(use, how uint64) bool {
	for t.pending(use) {
		if t.state.CompareAndSwap(use*oneUse+waiting, use*oneUse+how) ||
			t.state.CompareAndSwap(use*oneUse+sent, use*oneUse+how) {
			return true
		}
	}
	return false
}

// expire ends the wait of a use whose timeout has passed.
func (t *Ticket) expire(use uint64) {
	if t.end(use, expired) {
		t.done <- struct{}{}
	}
}

// leave ends the wait because the caller leaves, and reports whether the wait was not over yet.
func (t *Ticket) leave() bool { return t.end(t.use(), left) }
