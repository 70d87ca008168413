package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// worker asks the questions of a link. The questions that it takes from the queue at once are one call, or in Redis
// Cluster one call for each slot. It sends these calls together, and waits until all of them have ended.
type worker[Q Question[Q]] struct {
	link  *link[Q]
	calls []*call[Q] // in use
	spare []*call[Q] // for reuse
}

// call is one call of the script.
type call[Q Question[Q]] struct {
	questions []Q
	batch     Batch[Q]
	slot      int
	alone     bool // the questions must be alike: see retryAlone
	keys      []string
	args      []string
	again     bool // an earlier attempt may have been executed
	result    rueidis.RedisResult
}

// work runs a worker until the link is closed.
func (l *link[Q]) work() {
	w := &worker[Q]{link: l}
	var questions []Q
	for ok := true; ok; {
		questions, ok = l.take(questions[:0])
		w.sort(questions)
		clear(questions)
		w.send()
		for _, c := range w.calls {
			clear(c.questions)
			c.result = rueidis.RedisResult{}
		}
		w.spare, w.calls = append(w.spare, w.calls...), w.calls[:0]
	}
}

// sort distributes questions over calls, and encodes the calls. It drops questions whose callers no longer wait.
func (w *worker[Q]) sort(questions []Q) {
	for _, q := range questions {
		if q.ticket().send() {
			c := w.callFor(q)
			c.questions = append(c.questions, q)
		}
	}
	for _, c := range w.calls {
		c.keys, c.args = c.batch.Encode(c.questions)
	}
}

// callFor returns the call that a question goes with, which it adds if there is none yet.
func (w *worker[Q]) callFor(q Q) *call[Q] {
	t := q.ticket()
	for _, c := range w.calls {
		if c.slot == t.slot && c.alone == t.alone && (!t.alone || q.Alike(c.questions[0])) {
			return c
		}
	}
	if len(w.spare) == 0 {
		w.spare = append(w.spare, &call[Q]{batch: w.link.d.NewBatch()})
	}
	c := w.spare[len(w.spare)-1]
	w.spare = w.spare[:len(w.spare)-1]
	c.slot, c.alone, c.again, c.questions = t.slot, t.alone, false, c.questions[:0]
	w.calls = append(w.calls, c)
	return c
}

// maxAttempts is how often a call is sent if its connection is lost each time. Before each attempt but the first a
// probe has succeeded.
const maxAttempts = 10

// send sends the calls, and answers their questions. It sends a call again
//
//   - if its outcome is unknown because the connection was lost: as a retry, so that it charges nothing twice
//   - if it had no effect because the server is a replica
//   - if it had no effect because its slot is moving, and it may have been executed before; otherwise see retryAlone
//
// as long as a caller still waits, the batch allows it, and the Dispatcher is not closed.
func (w *worker[Q]) send() {
	d, breaker := w.link.d, &w.link.breaker
	pending := w.calls
	begun := d.Now()
	var failure error
	for attempt := 1; len(pending) > 0; attempt++ {
		client, err := d.Client()
		if err == nil {
			err = breaker.pass()
		}
		if err != nil {
			w.fail(pending, err)
			return
		}
		if failure != nil { // this is not the first attempt, and pass may have waited for a long time
			pending = slices.DeleteFunc(pending, func(c *call[Q]) bool {
				late := c.again && d.Now()-begun >= c.batch.RetryFor()
				if late {
					c.fail(failure)
				}
				return late
			})
			if len(pending) == 0 {
				return
			}
		}
		w.exec(client, pending)
		retries, moving := pending[:0:0], false
		for _, c := range pending {
			reply, err := c.result.ToArray()
			_, rejected := rueidis.IsRedisErr(err)
			switch {
			case err == nil:
				w.answer(c, reply)
				continue
			case rejected && tryAgain(err):
				moving = true
				if !c.again {
					w.retryAlone(c)
					continue
				}
				attempt = min(attempt, maxAttempts-1) // a slot may move for a long time: never the last attempt
			case rejected && readOnly(err):
				breaker.suspect(c.questions[0].HashTag(), err, true)
			case rejected:
				breaker.suspect(c.questions[0].HashTag(), err, false)
				c.fail(err)
				continue
			default:
				breaker.suspect(c.questions[0].HashTag(), err, true)
				c.args, c.again = c.batch.Again(), true
			}
			failure = err
			if attempt >= maxAttempts || d.closing.Err() != nil || !c.awaited() || d.Now()-begun >= c.batch.RetryFor() {
				c.fail(failure)
				continue
			}
			retries = append(retries, c)
		}
		if pending = retries; moving {
			time.Sleep(time.Millisecond)
		}
	}
}

// retryAlone puts the questions of a call that had no effect back into the queue, to be asked in calls that only
// questions that are alike share. While a slot moves, Redis answers a call if all its keys are on one node, which is
// more likely the fewer keys it has. The worker can ask other questions meanwhile.
func (w *worker[Q]) retryAlone(c *call[Q]) {
	for _, q := range c.questions {
		q.ticket().alone = true
	}
	w.link.again(c.questions)
}

// awaited reports whether a caller still waits for an answer.
func (c *call[Q]) awaited() bool {
	return slices.ContainsFunc(c.questions, func(q Q) bool { return q.ticket().in(sent) })
}

// exec sends calls, and sets their results.
func (w *worker[Q]) exec(client rueidis.Client, calls []*call[Q]) {
	d := w.link.d
	var begun time.Duration
	if d.Called != nil {
		begun = d.Now()
	}
	if len(calls) == 1 {
		calls[0].result = d.call(context.Background(), client, calls[0].keys, calls[0].args)
	} else {
		d.callAll(client, calls)
	}
	if d.Called != nil {
		for _, c := range calls {
			d.Called(len(c.questions), d.Now()-begun, c.result.Error())
		}
	}
}

// callAll sends several calls in one pipeline, and sets their results.
func (d *Dispatcher[Q]) callAll(client rueidis.Client, calls []*call[Q]) {
	defer caught(func(err error) {
		for _, c := range calls {
			c.result = rueidis.NewErrorResult(err)
		}
	})
	commands := make([]rueidis.Completed, len(calls))
	for i, c := range calls {
		commands[i] = d.command(client, c.keys, c.args)
	}
	for i, result := range client.DoMulti(context.Background(), commands...) {
		if calls[i].result = result; noScript(result.Error()) {
			calls[i].result = d.eval(context.Background(), client, calls[i].keys, calls[i].args)
		}
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

// answer decodes a reply, and answers the questions of its call.
func (w *worker[Q]) answer(c *call[Q], reply []rueidis.RedisMessage) {
	again, err := c.batch.Decode(reply)
	if err != nil {
		c.fail(fmt.Errorf("not a reply of exactlimit's script: %w", err))
		return
	}
	if len(again) > 0 {
		w.link.again(again)
	}
	for _, q := range c.questions {
		if t := q.ticket(); !slices.ContainsFunc(again, func(a Q) bool { return a.ticket() == t }) && !t.answer(nil) {
			w.link.d.Late(q)
		}
	}
}

// fail answers the questions of calls with an error.
func (w *worker[Q]) fail(calls []*call[Q], err error) {
	for _, c := range calls {
		c.fail(err)
	}
}

// fail answers the questions of a call with an error.
func (c *call[Q]) fail(err error) {
	for _, q := range c.questions {
		q.ticket().answer(err)
	}
}

// Code returns the code of an error that the server has answered with, such as READONLY, or "" if err is another
// error.
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
