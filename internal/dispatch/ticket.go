package dispatch

import "sync/atomic"

// Ticket is the part of a question that a Dispatcher needs: who waits for its answer. A question embeds it. The zero Ticket
// is ready; after Do has returned an answer it may be used again.
type Ticket struct {
	state atomic.Uint32
	done  chan struct{} // receives when the question is answered
	err   error
	slot  int
	alone bool // not to be asked in one call with questions about other keys
}

// The states of a ticket.
const (
	waiting  = iota // in the queue
	sent            // in a call
	answered        // and done has received
	left            // the caller does not wait any longer
)

func (t *Ticket) ticket() *Ticket { return t }

func (t *Ticket) reset(slot int) {
	if t.done == nil {
		t.done = make(chan struct{}, 1)
	}
	t.err, t.slot, t.alone = nil, slot, false
	t.state.Store(waiting)
}

// send reports whether the question is still to be asked, and then counts as sent.
func (t *Ticket) send() bool { return t.state.CompareAndSwap(waiting, sent) }

// answer hands the outcome to the caller, and reports whether one waits for it.
func (t *Ticket) answer(err error) bool {
	t.err = err
	if !t.state.CompareAndSwap(sent, answered) {
		return false
	}
	t.done <- struct{}{}
	return true
}

// leave ends the wait, and reports false if the answer has come meanwhile.
func (t *Ticket) leave() bool {
	return t.state.CompareAndSwap(waiting, left) || t.state.CompareAndSwap(sent, left)
}
