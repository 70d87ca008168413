package dispatch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// worker asks the questions of a link, one batch after the other. In Redis Cluster the questions that it takes at once are
// one batch for each slot, and go to Redis together.
type worker[Q Question[Q]] struct {
	link  *link[Q]
	calls []*call[Q] // in use
	spare []*call[Q]
}

// call is one call of the script.
type call[Q Question[Q]] struct {
	questions []Q
	batch     Batch[Q]
	slot      int
	alone     bool // all questions are alike
	keys      []string
	args      []string
	again     bool // it may have been executed
	attempts  int  // that failed, but for those that met a slot that moves
	result    rueidis.RedisResult
}

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

// sort makes calls of questions.
func (w *worker[Q]) sort(questions []Q) {
	for _, q := range questions {
		if q.ticket().send() {
			c := w.call(q)
			c.questions = append(c.questions, q)
		}
	}
	for _, c := range w.calls {
		c.keys, c.args = c.batch.Encode(c.questions)
	}
}

// call returns the call that a question goes with.
func (w *worker[Q]) call(q Q) *call[Q] {
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
	c.slot, c.alone, c.again, c.attempts, c.questions = t.slot, t.alone, false, 0, c.questions[:0]
	w.calls = append(w.calls, c)
	return c
}

// maxAttempts is how often a call is sent whose connection is lost each time. Each attempt waits for a probe to succeed.
const maxAttempts = 10

// send sends the calls, and again those whose outcome is not known, and answers their questions.
func (w *worker[Q]) send() {
	d, breaker := w.link.d, &w.link.breaker
	pending := w.calls
	begun := d.Now()
	var failure error
	for len(pending) > 0 {
		client, err := d.Client()
		if err == nil {
			err = breaker.pass()
		}
		if err != nil {
			w.fail(pending, err)
			return
		}
		if failure != nil { // it took time until the calls could be sent again
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
		unknown, moving := pending[:0:0], false
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
			case rejected && readOnly(err):
				c.attempts++
				breaker.suspect(c.questions[0].HashTag(), err, true)
			case rejected:
				breaker.suspect(c.questions[0].HashTag(), err, false)
				c.fail(err)
				continue
			default:
				c.attempts++
				breaker.suspect(c.questions[0].HashTag(), err, true)
				c.args, c.again = c.batch.Again(), true
			}
			failure = err
			if c.attempts >= maxAttempts || d.closing.Err() != nil || !c.awaited() || d.Now()-begun >= c.batch.RetryFor() {
				c.fail(failure)
				continue
			}
			unknown = append(unknown, c)
		}
		if pending = unknown; moving {
			time.Sleep(time.Millisecond)
		}
	}
}

// retryAlone has the questions of a call that had no effect asked again, but not those about different keys in one call. While
// a slot moves, keys that are on one node can be asked about where keys on both cannot. Other slots do not have to wait for it.
func (w *worker[Q]) retryAlone(c *call[Q]) {
	for _, q := range c.questions {
		q.ticket().alone = true
	}
	w.link.again(c.questions)
}

// awaited reports whether a caller waits for an answer.
func (c *call[Q]) awaited() bool {
	return slices.ContainsFunc(c.questions, func(q Q) bool { return q.ticket().in(sent) })
}

// exec fills in the results of calls.
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

// caught makes an error of a panic in a client of the user's own, which would end the process here.
func caught(f func(error)) {
	if p := recover(); p != nil {
		f(fmt.Errorf("the Redis client panicked: %v", p))
	}
}

// call calls the script by its SHA-1, or sends it to a server that does not have it.
func (d *Dispatcher[Q]) call(ctx context.Context, client rueidis.Client, keys, args []string) (result rueidis.RedisResult) {
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
	return client.Do(ctx, client.B().Eval().Script(d.Script).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
}

// answer hands the answers in a reply to the callers.
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

// Code returns the code of an error of the server, which is the first word of its text, such as READONLY, or "".
func Code(err error) string {
	rejection, is := rueidis.IsRedisErr(err)
	if !is {
		return ""
	}
	return CodeOf(rejection.Error())
}

// CodeOf returns the code of an error of the server with such a text. Rueidis leaves out ERR, so the text may begin with
// another word, such as in "DB index is out of range". Servers have no code for a script that uses a command without the right
// to it, where they say NOPERM otherwise.
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

// noScript reports whether the server does not have the script, so that the call had no effect.
func noScript(err error) bool { return Code(err) == "NOSCRIPT" }

// readOnly reports whether the server is a replica, so that the call had no effect.
func readOnly(err error) bool { return Code(err) == "READONLY" }

// tryAgain reports whether the keys of the call are on two nodes while their slot moves, so that the call had no effect.
func tryAgain(err error) bool { return Code(err) == "TRYAGAIN" }
