package core

import (
	"slices"
	"sync"
)

// call is one call of the script, as far as the receipts of what it has admitted need it: its id, and which of these
// admissions are settled. It is what makes each of them settled once, although a Decision is a plain value of which
// there may be copies. It is safe for concurrent use.
type call struct {
	id string

	mu          sync.Mutex
	settlements []settlement // of few admissions, since they are in memory only while a Decision of the call is
}

// settlement is what became of one admission of a call.
type settlement struct {
	question, place int32
	cost            int  // as it was stated first
	done            bool // Redis has confirmed it
}

// settle returns what an admission is settled to, and whether that is done. The cost that is stated first counts, since
// it may have been charged even if Redis did not answer.
func (c *call) settle(paid receipt, cost int) (first int, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.find(paid); s != nil {
		return s.cost, s.done
	}
	c.settlements = append(c.settlements, settlement{question: paid.question, place: paid.place, cost: cost})
	return cost, false
}

// settled notes that Redis has charged what settle returned.
func (c *call) settled(paid receipt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.find(paid).done = true
}

// find returns the settlement of an admission, or nil.
func (c *call) find(paid receipt) *settlement {
	i := slices.IndexFunc(c.settlements, func(s settlement) bool {
		return s.question == paid.question && s.place == paid.place
	})
	if i < 0 {
		return nil
	}
	return &c.settlements[i]
}
