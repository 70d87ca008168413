package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// call is a call of the script. A worker makes one after the other with it.
type call[Q Question[Q]] struct {
	link      *link[Q]
	batch     Batch[Q]
	questions []Q
	keys      []string
	args      []string
}

// work runs a worker until the link is closed. It drops questions whose callers no longer wait.
func (l *link[Q]) work() {
	c := &call[Q]{link: l, batch: l.d.NewBatch()}
	for ok := true; ok; {
		c.questions, ok = l.take(c.questions[:0])
		c.questions = slices.DeleteFunc(c.questions, func(q Q) bool { return !q.ticket().send() })
		if len(c.questions) > 0 {
			c.keys, c.args = c.batch.Encode(c.questions)
			c.send()
		}
		clear(c.questions)
	}
}

const (
	// maxAttempts is how often a call is sent if its connection is lost each time. Before each attempt but the first
	// a probe has succeeded.
	maxAttempts = 10
	// tryAgainPause is between two attempts while a slot moves.
	tryAgainPause = time.Millisecond
)

// send sends the call and answers its questions. It sends the call again
//
//   - if its outcome is unknown because the connection was lost: as a retry, so that it charges nothing twice
//   - if it had no effect because the server is a replica
//   - if it had no effect because its slot is moving, and it may have been executed before; otherwise see askAlone
//
// as long as a caller still waits, the batch allows it, and the Dispatcher is not closed.
func (c *call[Q]) send() {
	d, breaker := c.link.d, &c.link.breaker
	begun, again := d.Now(), false // again says that it may have been executed
	var failure error
	attempts := 0 // that failed, but for those that met a slot that moves
	for {
		client, err := d.Client()
		if err == nil {
			err = breaker.pass()
		}
		if err == nil && again && d.Now()-begun >= c.batch.RetryFor() {
			err = failure // it took time until the call could be sent again
		}
		if err != nil {
			c.fail(err)
			return
		}
		reply, err := c.exec(client)
		_, rejected := rueidis.IsRedisErr(err)
		switch {
		case err == nil:
			c.answer(reply)
			return
		case rejected && tryAgain(err):
			time.Sleep(tryAgainPause)
			if !again {
				c.askAlone()
				return
			}
		case rejected && readOnly(err):
			attempts++
			breaker.suspect(c.questions[0].HashTag(), err, true)
		case rejected:
			breaker.suspect(c.questions[0].HashTag(), err, false)
			c.fail(err)
			return
		default:
			attempts++
			breaker.suspect(c.questions[0].HashTag(), err, true)
			c.args, again = c.batch.Again(), true
		}
		failure = err
		if attempts >= maxAttempts || d.closing.Err() != nil || !c.awaited() || d.Now()-begun >= c.batch.RetryFor() {
			c.fail(failure)
			return
		}
	}
}

// askAlone puts the questions of a call that had no effect back into the queue, to be asked in calls that only questions
// that are alike share. While a slot moves, Redis answers a call if all its keys are on one node, which is more likely the
// fewer keys it has.
func (c *call[Q]) askAlone() {
	for _, q := range c.questions {
		q.ticket().alone = true
	}
	c.link.again(c.questions)
}

// awaited reports whether a caller still waits for an answer.
func (c *call[Q]) awaited() bool {
	return slices.ContainsFunc(c.questions, func(q Q) bool { return q.ticket().in(sent) })
}

func (c *call[Q]) exec(client rueidis.Client) ([]rueidis.RedisMessage, error) {
	d, begun := c.link.d, time.Duration(0)
	if d.Called != nil {
		begun = d.Now()
	}
	result := d.call(context.Background(), client, c.keys, c.args)
	if d.Called != nil {
		d.Called(len(c.questions), d.Now()-begun, result.Error())
	}
	return result.ToArray()
}

// answer hands the answers in a reply to the callers.
func (c *call[Q]) answer(reply []rueidis.RedisMessage) {
	again, err := c.batch.Decode(reply)
	if err != nil {
		c.fail(fmt.Errorf("not a reply of exactlimit's script: %w", err))
		return
	}
	if len(again) > 0 {
		c.link.again(again)
	}
	for _, q := range c.questions {
		if t := q.ticket(); !slices.ContainsFunc(again, func(a Q) bool { return a.ticket() == t }) && !t.answer(nil) {
			c.link.d.Late(q)
		}
	}
}

// fail answers the questions with an error.
func (c *call[Q]) fail(err error) {
	for _, q := range c.questions {
		q.ticket().answer(err)
	}
}

// caught is deferred. It recovers from a panic in a Redis client that the user has written, which would end the
// process here, and calls f with an error.
func caught(f func(error)) {
	if p := recover(); p != nil {
		f(fmt.Errorf("the Redis client panicked: %v", p))
	}
}

// call calls the script by its SHA-1. If the server does not have the script, it sends the text.
func (d *Dispatcher[Q]) call(
	ctx context.Context, client rueidis.Client, keys, args []string,
) (result rueidis.RedisResult) {
	defer caught(func(err error) { result = rueidis.NewErrorResult(err) })
	result = client.Do(ctx, d.command(client, keys, args))
	if noScript(result.Error()) {
		return d.eval(ctx, client, keys, args)
	}
	return result
}

func (d *Dispatcher[Q]) command(client rueidis.Client, keys, args []string) rueidis.Completed {
	return client.B().Evalsha().Sha1(d.sha1).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

func (d *Dispatcher[Q]) eval(ctx context.Context, client rueidis.Client, keys, args []string) rueidis.RedisResult {
	eval := client.B().Eval().Script(d.Script).Numkeys(int64(len(keys))).Key(keys...).Arg(args...)
	return client.Do(ctx, eval.Build())
}

// Code returns the code of an error of the server, which is the first word of its text, such as READONLY, or "".
func Code(err error) string {
	rejection, is := rueidis.IsRedisErr(err)
	if !is {
		return ""
	}
	return CodeOf(rejection.Error())
}

// CodeOf returns the code of an error that the server has answered with, given its text: the first word. Rueidis
// leaves out the code ERR, so the first word may be another, as in "DB index is out of range". When a script runs a
// command that the user has no right to, servers send a text without a code; CodeOf returns NOPERM then, as for calls
// outside a script.
func CodeOf(text string) string {
	text = strings.TrimPrefix(text, "ERR ")
	if strings.HasPrefix(text, "The user executing the script can't run this command") || // Redis 7.0
		strings.HasPrefix(text, "ACL failure in script") { // Redis 7.2, Valkey
		return "NOPERM"
	}
	word, _, _ := strings.Cut(text, " ")
	if len(word) < len("ERR") || strings.ContainsFunc(word, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return "ERR"
	}
	return word
}

// noScript reports whether the server does not have the script. The call had no effect then.
func noScript(err error) bool { return Code(err) == "NOSCRIPT" }

// readOnly reports whether the server is a replica. The call had no effect then.
func readOnly(err error) bool { return Code(err) == "READONLY" }

// tryAgain reports whether the keys of the call are on two nodes while their slot moves. The call had no effect then.
func tryAgain(err error) bool { return Code(err) == "TRYAGAIN" }
