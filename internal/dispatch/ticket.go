package dispatch

import "sync/atomic"

// Ticket is the part of a question that a Dispatcher needs: who waits for its answer. A question embeds it. The zero Ticket
// is ready; after Do has returned an answer it may be used again.
type Ticket struct {
	// state is the number of the use and, in the lowest bits, its state. A deadline may still hold a ticket that has been used
	// again since, and must not end that wait.
	state atomic.Uint64
	done  chan struct{} // receives when the wait is over
	err   error
	slot  int
	alone bool // not to be asked in one call with questions about other keys
}

// The states of a ticket.
const (
	waiting  = iota // in the queue
	sent            // in a call
	answered        // and done has received
	expired         // the timeout has passed, and done has received
	left            // the caller does not wait any longer

	useBits = 3
	oneUse  = 1 << useBits
)

func (t *Ticket) ticket() *Ticket { return t }

// begin makes the ticket wait for an answer from a slot.
func (t *Ticket) begin(slot int) {
	if t.done == nil {
		t.done = make(chan struct{}, 1)
	}
	t.err, t.slot, t.alone = nil, slot, false
	t.state.Store((t.use() + 1) * oneUse)
}

func (t *Ticket) use() uint64 { return t.state.Load() / oneUse }

func (t *Ticket) in(state uint64) bool { return t.state.Load()%oneUse == state }

// change changes the state, if it is as expected.
func (t *Ticket) change(from, to uint64) bool {
	now := t.state.Load()
	return now%oneUse == from && t.state.CompareAndSwap(now, now-from+to)
}

// send reports whether the question is still to be asked, and then counts as sent.
func (t *Ticket) send() bool { return t.change(waiting, sent) }

// answer hands the outcome to the caller, and reports whether one waits for it.
func (t *Ticket) answer(err error) bool {
	t.err = err
	if !t.change(sent, answered) {
		return false
	}
	t.done <- struct{}{}
	return true
}

// pending reports whether the caller waits for an answer, in the given use.
func (t *Ticket) pending(use uint64) bool {
	now := t.state.Load()
	return now/oneUse == use && now%oneUse < answered
}

// end ends the wait of a use, and reports false if it was over.
func (t *Ticket) end(use, how uint64) bool {
	for t.pending(use) {
		if t.state.CompareAndSwap(use*oneUse+waiting, use*oneUse+how) || t.state.CompareAndSwap(use*oneUse+sent, use*oneUse+how) {
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

// leave ends the wait for the caller, and reports false if it was over.
func (t *Ticket) leave() bool { return t.end(t.use(), left) }
