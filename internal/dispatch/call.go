package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"
)

// call is one call of the script, which may take several attempts.
type call[Q Question[Q]] struct {
	batch         Batch[Q]
	questions     []Q
	keys          []string
	args          []string
	result        rueidis.RedisResult // of the last attempt
	encodedAt     time.Duration       // by Dispatcher.Now
	maybeExecuted bool                // an attempt may have been executed
	moving        bool                // the slot is moving to another node, so the last attempt had no effect
	replicas      int                 // how many attempts have failed because the server was a replica
	attempts      int                 // how many have failed for other reasons, not counting a moving slot
	failure       error               // of the last attempt
}

const (
	// maxAttempts is how often a call is sent if its connection is lost each time. A probe succeeds before each attempt
	// after the first.
	maxAttempts = 10
	// maxReplicas is how often a call is sent to a server that is no longer the master. It is larger because the client
	// may have hundreds of connections to that server, and picks one at random for each attempt.
	maxReplicas = 1000
	// tryAgainPause is the pause between two attempts while a slot moves.
	tryAgainPause = time.Millisecond
	// failedPause is the pause after callers got an error. It is long enough for Unwanted to get its final value. After
	// a rejection it is doubled with each failed attempt.
	failedPause = 5 * time.Millisecond
	// maxUnknown is how long a call of unknown outcome waits for the breaker to close.
	maxUnknown = time.Minute
)

// encode makes c a new call that asks the given questions.
func (c *call[Q]) encode(questions []Q, now time.Duration) {
	*c = call[Q]{batch: c.batch, questions: questions, encodedAt: now}
	c.keys, c.args = c.batch.Encode(questions)
}

// send sends calls together, and answers their questions. It returns the calls that must be sent again.
func (l *link[Q]) send(client rueidis.Client, calls []*call[Q]) (failed []*call[Q]) {
	d, start := l.d, l.d.Now()
	d.run(context.Background(), client, calls)
	took := d.Now() - start
	for _, c := range calls {
		if d.Called != nil {
			d.Called(len(c.questions), took, c.result.Error())
		}
		if !l.finish(client, c) {
			failed = append(failed, c)
		}
	}
	return failed
}

// finish answers the questions of a call that was sent. It reports false if the call must be sent again:
//
//   - if its outcome is unknown because the connection was lost: as a retry, so that it charges nothing twice
//   - if it had no effect because the server is a replica
//   - if it had no effect because its slot is moving
//
// If a retry is rejected, it is still unknown what the first attempt granted, so the call is sent again later.
func (l *link[Q]) finish(client rueidis.Client, c *call[Q]) bool {
	l.callsEnded.Add(1)
	reply, err := c.result.ToArray()
	_, rejected := rueidis.IsRedisErr(err)
	switch {
	case err == nil:
		l.answer(c, reply)
		return true
	case rejected && tryAgain(err):
		c.moving = true
	case rejected && readOnly(err):
		c.replicas++
		l.breaker.suspect(c.questions[0].HashTag(), err, true)
	case rejected:
		l.breaker.suspect(c.questions[0].HashTag(), err, false)
		c.fail(err)
		if c.maybeExecuted {
			c.attempts++
			l.background.Go(func() { l.resendLater(client, c) })
		}
		return true
	default:
		c.attempts++
		l.breaker.suspect(c.questions[0].HashTag(), err, true)
		c.args, c.maybeExecuted = c.batch.Again(), true
	}
	c.failure = err
	return false
}

// resend sends failed calls again, until they succeed or are no longer worth resending. When the breaker opens, their
// callers get an error. But what Redis may have granted must be given back, so calls of unknown outcome wait until it
// closes. There are few of them: each time the breaker closes, each worker can add one set of calls that fails, and a
// set is sent maxAttempts times.
func (l *link[Q]) resend(client rueidis.Client, calls []*call[Q]) {
	for {
		if slices.ContainsFunc(calls, func(c *call[Q]) bool { return c.moving }) {
			time.Sleep(tryAgainPause)
		}
		if calls = l.worthResending(calls); len(calls) == 0 {
			return
		}
		if err := l.breaker.allow(); err != nil {
			for _, c := range calls {
				c.fail(err)
			}
			time.Sleep(failedPause)
			if !l.breaker.awaitClosed(maxUnknown) {
				return
			}
		} else if calls = l.worthResending(calls); len(calls) > 0 { // because allow may have waited
			calls = l.send(client, calls)
		}
	}
}

// resendLater resends a call whose callers have got an error. It pauses first, for longer after each attempt.
func (l *link[Q]) resendLater(client rueidis.Client, c *call[Q]) {
	select {
	case <-time.After(failedPause << c.attempts):
		l.resend(client, []*call[Q]{c})
	case <-l.d.closing.Done():
	}
}

// worthResending returns the calls that are worth resending, and answers the questions of the others.
func (l *link[Q]) worthResending(calls []*call[Q]) []*call[Q] {
	now := l.d.Now()
	return slices.DeleteFunc(calls, func(c *call[Q]) bool {
		switch {
		case c.moving && !c.maybeExecuted:
			l.askAlone(c)
			return true
		case c.attempts >= maxAttempts || c.replicas >= maxReplicas:
		case now-c.encodedAt >= c.batch.RetryFor() || l.d.closing.Err() != nil:
		case slices.ContainsFunc(c.questions, func(q Q) bool { return q.future().is(sent) }): // a caller waits
			c.moving = false
			return false
		case c.maybeExecuted && slices.ContainsFunc(c.questions, Q.Unwanted):
			c.moving, c.args = false, c.batch.Known()
			return false
		}
		c.fail(c.failure)
		return true
	})
}

// askAlone puts the questions of a call that had no effect back into the queue. From then on, each shares a call only
// with questions that are alike. While a slot moves, Redis answers a call only if all of its keys are on one node,
// which is more likely if it has fewer keys.
func (l *link[Q]) askAlone(c *call[Q]) {
	for _, q := range c.questions {
		q.future().alone = true
	}
	l.requeue(c.questions)
}

// answer decodes a reply, and returns the answers to the callers.
func (l *link[Q]) answer(c *call[Q], reply []rueidis.RedisMessage) {
	unanswered, err := c.batch.Decode(reply)
	if err != nil {
		c.fail(fmt.Errorf("not a reply of exactlimit's script: %w", err))
		return
	}
	if len(unanswered) > 0 {
		l.requeue(unanswered)
	}
	for _, q := range c.questions {
		f := q.future()
		if !slices.ContainsFunc(unanswered, func(a Q) bool { return a.future() == f }) && !f.answer(nil) {
			l.d.Late(q)
		}
	}
}

// fail answers the questions of the call with an error.
func (c *call[Q]) fail(err error) {
	for _, q := range c.questions {
		q.future().answer(err)
	}
}
