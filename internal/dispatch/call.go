package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"
)

// call is a call of the script.
type call[Q Question[Q]] struct {
	batch     Batch[Q]
	questions []Q
	keys      []string
	args      []string
	result    rueidis.RedisResult // of the last attempt
	begun     time.Duration       // when it was encoded, by Dispatcher.Now
	again     bool                // it may have been executed
	moving    bool                // its slot is moving to another node, so the last attempt had no effect
	attempts  int                 // how many have failed, but for those that met a slot that moves
	failure   error               // of the last attempt
}

const (
	// maxAttempts is how often a call is sent if its connection is lost each time. Before each attempt but the first
	// a probe has succeeded.
	maxAttempts = 10
	// maxReadOnly is how often a call is sent to a server that is no longer the master. It is larger because the client
	// may have hundreds of connections to that server, and picks one at random for each attempt.
	maxReadOnly = 1000
	// tryAgainPause is between two attempts while a slot moves.
	tryAgainPause = time.Millisecond
	// rejectedPause is doubled with each attempt that was rejected or failed. Callers have told by then whether they want
	// what they may have been granted.
	rejectedPause = 5 * time.Millisecond
	// maxUnknown is how long a call whose outcome is unknown waits until the breaker closes.
	maxUnknown = time.Minute
)

// encode makes the call one that asks the given questions.
func (c *call[Q]) encode(questions []Q, now time.Duration) {
	*c = call[Q]{batch: c.batch, questions: questions, begun: now}
	c.keys, c.args = c.batch.Encode(questions)
}

// send sends calls all at once, and answers their questions. It returns the calls that have to be sent again.
func (l *link[Q]) send(client rueidis.Client, calls []*call[Q]) (again []*call[Q]) {
	d, begun := l.d, l.d.Now()
	d.run(context.Background(), client, calls)
	took := d.Now() - begun
	for _, c := range calls {
		if d.Called != nil {
			d.Called(len(c.questions), took, c.result.Error())
		}
		if !l.settle(client, c) {
			again = append(again, c)
		}
	}
	return again
}

// settle answers the questions of a call that was sent. It reports false if the call has to be sent again, which it has
//
//   - if its outcome is unknown because the connection was lost: as a retry, so that it charges nothing twice
//   - if it had no effect because the server is a replica
//   - if it had no effect because its slot is moving
//
// If an earlier attempt may have been executed, a rejection does not tell what that has granted, so it is asked later.
func (l *link[Q]) settle(client rueidis.Client, c *call[Q]) bool {
	l.heard.Add(1)
	reply, err := c.result.ToArray()
	_, rejected := rueidis.IsRedisErr(err)
	switch {
	case err == nil:
		l.answer(c, reply)
		return true
	case rejected && tryAgain(err):
		c.moving = true
	case rejected && readOnly(err):
		c.attempts++
		l.breaker.suspect(c.questions[0].HashTag(), err, true)
	case rejected:
		l.breaker.suspect(c.questions[0].HashTag(), err, false)
		c.fail(err)
		if c.again {
			c.attempts++
			l.workers.Go(func() { l.sendLater(client, c) })
		}
		return true
	default:
		c.attempts++
		l.breaker.suspect(c.questions[0].HashTag(), err, true)
		c.args, c.again = c.batch.Again(), true
	}
	c.failure = err
	return false
}

// sendAgain sends calls that have failed, until they succeed or it is of no use. While the breaker is open their
// callers have got an error, but what Redis may have granted has to be given back, so the calls whose outcome is
// unknown wait until it closes. There are few of them: each worker can have one more set of calls that fails whenever
// the breaker closes, and a set is sent maxAttempts times.
func (l *link[Q]) sendAgain(client rueidis.Client, calls []*call[Q]) {
	for {
		if slices.ContainsFunc(calls, func(c *call[Q]) bool { return c.moving }) {
			time.Sleep(tryAgainPause)
		}
		if calls = l.useful(calls); len(calls) == 0 {
			return
		}
		if i := slices.IndexFunc(calls, func(c *call[Q]) bool { return readOnly(c.failure) }); i >= 0 {
			l.d.quit(l.d.closing, client, calls[i].keys[0])
		}
		if err := l.breaker.pass(); err != nil {
			for _, c := range calls {
				c.fail(err)
			}
			if !l.breaker.awaitClosed(maxUnknown) {
				return
			}
		} else if calls = l.useful(calls); len(calls) > 0 { // it may have taken time until they may be sent
			calls = l.send(client, calls)
		}
	}
}

// sendLater sends a call again whose callers have got an error, after a pause that grows with each attempt.
func (l *link[Q]) sendLater(client rueidis.Client, c *call[Q]) {
	select {
	case <-time.After(rejectedPause << min(c.attempts, maxAttempts)):
		l.sendAgain(client, []*call[Q]{c})
	case <-l.d.closing.Done():
	}
}

// useful returns those of the calls that are of use if they are sent again, and answers the questions of the others.
func (l *link[Q]) useful(calls []*call[Q]) []*call[Q] {
	now := l.d.Now()
	return slices.DeleteFunc(calls, func(c *call[Q]) bool {
		switch {
		case c.moving && !c.again:
			l.askAlone(c)
			return true
		case c.attempts >= c.maxAttempts() || now-c.begun >= c.batch.RetryFor() || l.d.closing.Err() != nil:
		case slices.ContainsFunc(c.questions, func(q Q) bool { return q.ticket().in(sent) }): // its caller waits
			c.moving = false
			return false
		case c.again && slices.ContainsFunc(c.questions, Q.Unwanted):
			c.moving, c.args = false, c.batch.Known()
			return false
		}
		c.fail(c.failure)
		return true
	})
}

// maxAttempts returns how often the call may be sent, given how the last attempt failed.
func (c *call[Q]) maxAttempts() int {
	if readOnly(c.failure) {
		return maxReadOnly
	}
	return maxAttempts
}

// askAlone puts the questions of a call that had no effect back into the queue, to be asked in calls that only
// questions that are alike share. While a slot moves, Redis answers a call if all its keys are on one node, which is
// more likely the fewer keys it has.
func (l *link[Q]) askAlone(c *call[Q]) {
	for _, q := range c.questions {
		q.ticket().alone = true
	}
	l.again(c.questions)
}

// answer hands the answers in a reply to the callers.
func (l *link[Q]) answer(c *call[Q], reply []rueidis.RedisMessage) {
	again, err := c.batch.Decode(reply)
	if err != nil {
		c.fail(fmt.Errorf("not a reply of exactlimit's script: %w", err))
		return
	}
	if len(again) > 0 {
		l.again(again)
	}
	for _, q := range c.questions {
		if t := q.ticket(); !slices.ContainsFunc(again, func(a Q) bool { return a.ticket() == t }) && !t.answer(nil) {
			l.d.Late(q)
		}
	}
}

// fail answers the questions with an error.
func (c *call[Q]) fail(err error) {
	for _, q := range c.questions {
		q.ticket().answer(err)
	}
}
