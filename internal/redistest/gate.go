package redistest

import "github.com/redis/rueidis"

// Gate is where calls of the script stop until the test lets them pass. Its Hook is that of a Client.
type Gate struct {
	Came chan *Held // the calls that come, one after the other
}

// Held is a call that stands at a Gate.
type Held struct {
	Words []string
	end   chan error
}

// NewGate returns a Gate. The test may close Came once no more calls come.
func NewGate() *Gate { return &Gate{Came: make(chan *Held)} }

// Hook holds a command until the test calls Pass or Fail, if it is a call of the script.
func (g *Gate) Hook(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
	if !IsCall(words) {
		return send()
	}
	h := &Held{words, make(chan error)}
	g.Came <- h
	if err := <-h.end; err != nil {
		return rueidis.NewErrorResult(err)
	}
	return send()
}

// PassAll lets calls pass until Came is closed.
func (g *Gate) PassAll() {
	for h := range g.Came {
		h.Pass()
	}
}

// Pass lets the call pass.
func (h *Held) Pass() { h.end <- nil }

// Fail makes the call fail. It is not sent.
func (h *Held) Fail(err error) { h.end <- err }
