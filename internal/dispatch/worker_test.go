package dispatch

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A worker asks its questions in one call for each slot, in the order in which they came. Those that have to go alone
// share a call only with questions that are alike.
func TestQuestionsOfOneSlotGoTogether(t *testing.T) {
	d := start(t, nil)
	d.client.Cluster = true
	w := newWorker(d.nodes.link(0))
	for range 2 { // the second time with the calls of the first
		w.questions = nil
		for _, row := range []struct {
			name  string
			slot  int
			alone bool
		}{
			{"a", 7, false}, {"b", 3, false}, {"c", 7, false}, {"d", 7, true}, {"d", 7, true}, {"e", 7, true},
			{"f", 3, false},
			{"g", 7, false}, {"h", 0, false},
		} {
			q := d.about(row.name)
			q.begin(row.slot)
			q.alone = row.alone
			w.questions = append(w.questions, q)
		}
		var got []string
		for _, c := range w.encode(d.client) {
			var names []string
			for _, q := range c.questions {
				names = append(names, strings.TrimPrefix(q.key, d.prefix))
			}
			got = append(got, strings.Join(names, " "))
			assert.Equal(t, len(c.questions), len(c.keys))
		}
		assert.Equal(t, []string{"h", "b f", "a c g", "d d", "e"}, got)
	}
}

// askAtOnce asks questions that a worker finds all at once.
func (d *dispatched) askAtOnce(names ...string) (outcomes []*outcome) {
	l := d.nodes.link(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		outcomes = append(outcomes, d.ask(context.Background(), d.about(name)))
	}
	for _, o := range outcomes { // each waits for the lock now
		q := o.question
		d.eventually(func() bool { return q.future().use() == 1 })
	}
	return outcomes
}

// Of the calls that are sent at once some may fail. They are sent again, and hold up no others.
func TestSomeCallsFail(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	for name, row := range map[string]struct {
		err    error
		fails  bool
		queues bool // the worker asks again, so that its next calls would wait too
	}{
		"lost":     {err: io.EOF},
		"READONLY": {err: rejection(t, "READONLY no")},
		"TRYAGAIN": {err: rejection(t, "TRYAGAIN no"), queues: true},
		"NOPERM":   {err: rejection(t, "NOPERM no"), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			end := sync.OnceFunc(func() { close(release) })
			t.Cleanup(end)
			if row.queues {
				end()
			}
			var attempts [2]atomic.Int32
			d := onCluster(t, pointer("{}"), func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				n := slices.IndexFunc([]string{"b", "e"},
					func(s string) bool { return strings.HasSuffix(words[3], ":"+s) })
				switch {
				case !redistest.IsCall(words) || n < 0:
				case attempts[n].Add(1) == 1:
					return rueidis.NewErrorResult(row.err)
				default:
					<-release
				}
				return send()
			})
			d.nodes.link(0).maxWorkers = 1
			outcomes := d.askAtOnce(names...)
			for i, o := range outcomes {
				if i != 1 && i != 4 {
					require.NoError(t, o.wait(t).err)
				}
			}
			require.NoError(t, d.Do(context.Background(), d.about("later")), "the worker goes on")
			end()
			for _, i := range []int{1, 4} {
				if row.fails {
					assert.ErrorIs(t, outcomes[i].wait(t).err, row.err)
				} else {
					require.NoError(t, outcomes[i].wait(t).err)
					assert.EqualValues(t, 1, outcomes[i].count)
				}
			}
		})
	}
}

// If a server does not have the script, the text is sent once, and not with each call.
func TestTheTextIsSentOnce(t *testing.T) {
	none := rejection(t, "NOSCRIPT no")
	var loaded atomic.Bool
	d := onCluster(t, pointer("{}"), func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if words[0] == "EVAL" {
			loaded.Store(true)
		} else if !loaded.Load() {
			return rueidis.NewErrorResult(none)
		}
		return send()
	})
	d.nodes.link(0).maxWorkers = 1
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint(i))
	}
	for _, o := range d.askAtOnce(names...) {
		require.NoError(t, o.wait(t).err)
		assert.EqualValues(t, 1, o.count)
	}
	assert.Len(t, d.client.Sent(func(words []string) bool { return words[0] == "EVAL" }), 1)
}

// If the user may not send the text, no call has an effect, and the text is not sent with each call all the same.
func TestTheTextIsRejected(t *testing.T) {
	none, no := rejection(t, "NOSCRIPT no"), rejection(t, "NOPERM no")
	d := onCluster(t, pointer("{}"), func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if redistest.IsProbe(words) {
			return send()
		}
		if words[0] == "EVAL" {
			return rueidis.NewErrorResult(no)
		}
		return rueidis.NewErrorResult(none)
	})
	d.nodes.link(0).maxWorkers = 1
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint(i))
	}
	for _, o := range d.askAtOnce(names...) {
		assert.ErrorIs(t, o.wait(t).err, no)
	}
	texts := d.client.Sent(func(words []string) bool { return words[0] == "EVAL" && !redistest.IsProbe(words) })
	assert.Less(t, len(texts), 25, "once for all calls that are sent at once")
}

// However many questions come at once, a link has a bounded number of workers, each of a bounded number of calls.
func TestMemoryOfABurst(t *testing.T) {
	var made atomic.Int32
	d := start(t, nil, func(c *Config[*question]) {
		inner := c.Batches
		c.Batches = func() func() Batch[*question] {
			newBatch := inner()
			return func() Batch[*question] {
				made.Add(1)
				return newBatch()
			}
		}
	})
	d.client.Cluster = true
	d.client.Hook = func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		return send()
	}
	for range 3 {
		var outcomes []*outcome
		for i := range 2000 {
			outcomes = append(outcomes, d.ask(context.Background(), d.about(fmt.Sprint(i))))
		}
		for _, o := range outcomes {
			require.NoError(t, o.wait(t).err)
		}
	}
	assert.LessOrEqual(t, made.Load(), int32(maxWorkers*maxSize))
	assert.LessOrEqual(t, d.nodes.link(0).workers, maxWorkers)
}
