package dispatch

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// While a slot moves, questions about keys on both of its nodes are asked until they are on one. They hold up no
// others: not those about keys of the slot that are on one node, nor those of other slots.
func TestQuestionsWaitForASlotThatMoves(t *testing.T) {
	moves := rejection(t, "TRYAGAIN no")
	var moved atomic.Bool
	d := start(t, redistest.OnlyCalls(func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if !moved.Load() && slices.Contains(names(words), "both") {
			return rueidis.NewErrorResult(moves)
		}
		return send()
	}))
	d.client.Cluster = true
	l := d.nodes.link(0)
	ask := func(name string) *outcome {
		return d.ask(context.Background(), &question{key: "{a}" + d.prefix + name})
	}
	l.mu.Lock() // so that all are there when the workers wake
	both := []*outcome{ask("both"), ask("both")}
	time.Sleep(time.Millisecond)
	one := []*outcome{ask("one"), ask("two"), ask("one")}
	time.Sleep(10 * time.Millisecond)
	l.mu.Unlock()
	for range 20 {
		one = append(one, ask("later"))
	}
	for _, o := range one {
		assert.NoError(t, o.wait(t).err)
	}
	for _, o := range both {
		select {
		case <-o.done:
			t.Error("answered without Redis: ", o.err)
		default:
		}
	}
	assert.NoError(t, l.probe(context.Background(), "a"))
	moved.Store(true)
	for _, o := range both {
		assert.NoError(t, o.wait(t).err)
	}
	assert.Empty(t, d.changed(), "Redis answers")
}

// Slots are those that Redis says.
func TestSlotOf(t *testing.T) {
	client := redistest.StartCluster(t, 1, 0).Masters[0].Single(t)
	for _, tag := range []string{
		"ann", "a", "{", "{{", "{a", "127.0.0.1", "ünïcode", strings.Repeat("x", 128), "\x00\xff", "%7D", "a b",
	} {
		want, err := redistest.Do(t, client, "CLUSTER", "KEYSLOT", "exactlimit:{"+tag+"}:login:60000v3").AsInt64()
		require.NoError(t, err)
		assert.EqualValues(t, want, slotOf(tag), "%q", tag)
	}
}
