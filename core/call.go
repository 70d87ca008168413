package core

import (
	"slices"
	"sync"
)

// call is the part of a call of the script that receipts refer to: its id, and which of its admissions are settled. It
// ensures that each admission is settled only once, although a Decision may be copied. It is safe for concurrent use.
type call struct {
	id string

	mu          sync.Mutex
	settlements []settlement // few, because most calls are no longer referenced when a Decision is settled
}

// settlement records the settling of one admission of a call.
type settlement struct {
	question, position int32
	cost               int  // the first one that was recorded
	confirmed          bool // Redis has confirmed it
}

// recordCost records what an admission has cost, if this was not recorded before. It returns the recorded cost, which
// may have been charged even if Redis did not answer, and whether Redis has confirmed it.
func (c *call) recordCost(receipt receipt, cost int) (recorded int, confirmed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.find(receipt); s != nil {
		return s.cost, s.confirmed
	}
	c.settlements = append(c.settlements,
		settlement{question: receipt.question, position: receipt.position, cost: cost})
	return cost, false
}

// confirm records that Redis has charged the cost that recordCost returned.
func (c *call) confirm(receipt receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.find(receipt).confirmed = true
}

// find returns the settlement of an admission, or nil.
func (c *call) find(receipt receipt) *settlement {
	i := slices.IndexFunc(c.settlements, func(s settlement) bool {
		return s.question == receipt.question && s.position == receipt.position
	})
	if i < 0 {
		return nil
	}
	return &c.settlements[i]
}
