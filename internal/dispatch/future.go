package dispatch

import "sync/atomic"

// Future is the part of a question that the Dispatcher uses. It connects the question to the caller that waits for the
// answer. The zero Future is ready for use. A Future may be used again after Do has returned nil.
type Future struct {
	// state holds one of the states below in its lowest bits, and the number of the use in the other bits. The clock
	// may still hold a wait of an earlier use, and the number keeps it from ending the wait of a later one.
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
	left            // the caller has left because its context ended

	useBits = 3
	oneUse  = 1 << useBits
)

func (f *Future) future() *Future { return f }

// begin begins a new use of f, for a question to a slot.
func (f *Future) begin(slot int) {
	if f.done == nil {
		f.done = make(chan struct{}, 1)
	}
	f.err, f.slot, f.alone = nil, slot, false
	f.state.Store((f.use() + 1) * oneUse)
}

// use returns the number of the current use.
func (f *Future) use() uint64 { return f.state.Load() / oneUse }

// is reports whether f is in the given state.
func (f *Future) is(state uint64) bool { return f.state.Load()%oneUse == state }

// change changes the state, and reports whether it was as expected.
func (f *Future) change(from, to uint64) bool {
	state := f.state.Load()
	return state%oneUse == from && f.state.CompareAndSwap(state, state-from+to)
}

// send marks the question as sent, and reports whether the caller is still waiting.
func (f *Future) send() bool { return f.change(waiting, sent) }

// answer ends the wait with an answer or an error, and reports whether the caller was still waiting.
func (f *Future) answer(err error) bool {
	if !f.is(sent) {
		return false // without setting err, which the caller may be reading
	}
	f.err = err
	if !f.change(sent, answered) {
		return false
	}
	f.done <- struct{}{}
	return true
}

// pending reports whether the caller is waiting in the given use.
func (f *Future) pending(use uint64) bool {
	state := f.state.Load()
	return state/oneUse == use && state%oneUse < answered
}

// end ends the wait of a use by changing to a final state, and reports whether the caller was still waiting.
func (f *Future) end(use, final uint64) bool {
	for f.pending(use) {
		if f.state.CompareAndSwap(use*oneUse+waiting, use*oneUse+final) ||
			f.state.CompareAndSwap(use*oneUse+sent, use*oneUse+final) {
			return true
		}
	}
	return false
}

// expire ends the wait of a use whose timeout has passed.
func (f *Future) expire(use uint64) {
	if f.end(use, expired) {
		f.done <- struct{}{}
	}
}

// leave ends the wait because the caller leaves, and reports whether the wait was not over yet.
func (f *Future) leave() bool { return f.end(f.use(), left) }
