package dispatch

import (
	"context"
	"fmt"
	"io"
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

// onCluster returns a dispatcher whose client says that it is a cluster's, of masters with the given slots, in the form
// of CLUSTER SLOTS in Lua. One server plays them all.
func onCluster(t *testing.T, rows *atomic.Pointer[string], hook redistest.Hook) *dispatched {
	d := start(t, hook)
	d.client.Cluster = true
	inner := d.client.Client
	answer := func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if slices.Equal(words, []string{"CLUSTER", "SLOTS"}) {
			eval := inner.B().Eval().Script("return " + *rows.Load()).Numkeys(0).Build()
			return inner.Do(context.Background(), eval)
		}
		return send()
	}
	d.masters(&redistest.Client{Client: inner, Hook: answer})
	return d
}

// masters has the client say that these are the nodes of its cluster.
func (d *dispatched) masters(nodes ...rueidis.Client) {
	all := map[string]rueidis.Client{}
	for i, node := range nodes {
		all[fmt.Sprint("node", i)] = node
	}
	d.client.Masters = func() map[string]rueidis.Client { return all }
}

func pointer(text string) *atomic.Pointer[string] {
	p := new(atomic.Pointer[string])
	p.Store(&text)
	return p
}

// link returns the number of the link of a slot.
func (d *dispatched) linkOf(slot int) int {
	return slices.Index(d.nodes.table.Load().links, d.nodes.link(slot))
}

// inSlots returns the name of a key in one of the slots.
func (d *dispatched) inSlots(first, last int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("key", i); first <= slotOf(d.prefix+name) && slotOf(d.prefix+name) <= last {
			return name
		}
	}
}

const three = `{{0, 99, {'h', 1, 'id1'}, {'h', 4, 'id4'}}, {100, 199, {'h', 2, 'id2'}}, {200, 16383, {'h', 3, 'id3'}}}`

// Each master has a link. It keeps it as long as the slot that is its first was in it. The first link is for slots
// without a master.
func TestLinksOfMasters(t *testing.T) {
	rows := pointer(three)
	d := onCluster(t, rows, nil)
	for _, row := range []struct {
		why, rows string
		links     map[int]int // of slots
		most      int         // links
	}{
		{"three masters", three, map[int]int{0: 1, 99: 1, 100: 2, 199: 2, 200: 3, 16383: 3}, 4},
		{"the first is failed over",
			`{{0, 99, {'h', 4, 'id4'}}, {100, 199, {'h', 2, 'id2'}}, {200, 16383, {'h', 3, 'id3'}}}`,
			map[int]int{0: 1, 99: 1, 100: 2, 200: 3}, 4},
		{"one more takes slots of all, and the order is another", `{{150, 199, {'h', 5, ''}}, {200, 300, {'h', 5, ''}},
			{301, 16383, {'h', 3, ''}}, {0, 49, {'h', 5, ''}}, {100, 149, {'h', 2, ''}}, {50, 99, {'h', 4, ''}}}`,
			map[int]int{0: 2, 49: 2, 50: 1, 99: 1, 100: 4, 149: 4, 150: 2, 199: 2,
				200: 2, 300: 2, 301: 3, 16383: 3}, 5},
		{"one is left, and has not all slots", `{{1000, 1999, {'h', 4, 'id4'}}}`,
			map[int]int{0: 0, 999: 0, 1000: 3, 1999: 3, 2000: 0, 16383: 0}, 5},
		{"names are unknown", `{{0, 9, {false, 4}}, {10, 19, {'', 5}}}`, map[int]int{0: 1, 10: 2, 20: 0}, 5},
	} {
		rows.Store(&row.rows)
		d.nodes.refreshAt.Store(0)
		d.nodes.refresh(d.Dispatcher, d.client)
		d.nodes.background.Wait()
		for slot, link := range row.links {
			assert.Equal(t, link, d.linkOf(slot), "%s: slot %d", row.why, slot)
			assert.Equal(t, link, d.Server(d.prefix+d.inSlots(slot, slot)), "%s: slot %d", row.why, slot)
		}
		assert.Len(t, d.nodes.table.Load().links, row.most, row.why)
	}
	before := d.nodes.table.Load()
	for _, malformed := range []string{
		`1`, `{}`, `{1}`, `{{}}`, `{{0, 1}}`, `{{0, 1, 2}}`, `{{0, 1, {}}}`, `{{0, 1, {'h'}}}`, `{{0, 1, {'h', 'p'}}}`,
		`{{0, 16384, {'h', 1}}}`, `{{-1, 0, {'h', 1}}}`, `{{2, 1, {'h', 1}}}`, `{{'a', 1, {'h', 1}}}`,
		`redis.error_reply('NOPERM no')`,
	} {
		rows.Store(&malformed)
		d.nodes.refreshAt.Store(0)
		d.nodes.refresh(d.Dispatcher, d.client)
		d.nodes.background.Wait()
		assert.Same(t, before, d.nodes.table.Load(), malformed)
		assert.LessOrEqual(t, d.nodes.refreshAt.Load(), int64(d.Now()+mapRetry), "it is asked again soon")
	}
}

// Clients may have no nodes, or a mistake in them. Then all slots have one link.
func TestMastersNotKnown(t *testing.T) {
	d := onCluster(t, pointer(three), nil)
	d.masters()
	require.NoError(t, d.Do(context.Background(), d.about("a")))
	d.nodes.background.Wait()
	d.masters(&redistest.Client{Hook: func([]string, func() rueidis.RedisResult) rueidis.RedisResult {
		panic("in a hook")
	}})
	d.nodes.refreshAt.Store(0)
	require.NoError(t, d.Do(context.Background(), d.about("a")))
	d.nodes.background.Wait()
	assert.Nil(t, d.nodes.table.Load().linkIndex)
}

// The map is asked for when it is due, and by one at a time.
func TestMapIsAskedForWhenDue(t *testing.T) {
	d := onCluster(t, pointer(three), nil)
	asked := func() int {
		node := d.client.Masters()["node0"].(*redistest.Client)
		return len(node.Sent(func([]string) bool { return true }))
	}
	for i := range 100 {
		require.NoError(t, d.Do(context.Background(), d.about(fmt.Sprint(i))))
	}
	d.nodes.background.Wait()
	assert.Equal(t, 1, asked())
	d.nodes.refreshAt.Store(int64(d.Now()))
	for i := range 100 {
		require.NoError(t, d.Do(context.Background(), d.about(fmt.Sprint(i))))
	}
	d.nodes.background.Wait()
	assert.Equal(t, 2, asked())
	d.Close()
	d.nodes.refreshAt.Store(0)
	d.nodes.refresh(d.Dispatcher, d.client)
	assert.Equal(t, 2, asked())
}

// A master that hangs, or that is gone, holds up no question about slots of another, and the breaker of its link is
// another than theirs.
func TestMasterThatHangs(t *testing.T) {
	for name, hangs := range map[string]bool{"a master that hangs": true, "a master that is gone": false} {
		t.Run(name, func(t *testing.T) {
			var here, there string
			var away atomic.Bool
			back := make(chan struct{})
			hook := func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				if away.Load() && words[0] == "EVALSHA" && slotOf(strings.Trim(words[3], "{}")) < 8192 {
					if !hangs {
						return rueidis.NewErrorResult(io.EOF)
					}
					<-back
				}
				return send()
			}
			d := onCluster(t, pointer(`{{0, 8191, {'h', 1}}, {8192, 16383, {'h', 2}}}`), hook)
			d.clock.timeout, d.Timeout = 100*time.Millisecond, 100*time.Millisecond
			here, there = d.inSlots(8192, 16383), d.inSlots(0, 8191)
			require.NoError(t, d.Do(context.Background(), d.about(here)))
			d.eventually(func() bool { return d.linkOf(0) == 1 })
			away.Store(true)
			for range 10 {
				for range 10 {
					d.ask(context.Background(), d.about(there))
				}
				// This may wait for the timeout if the machine is busy, but not if it waits for the other master.
				assert.NoError(t, d.Do(context.Background(), d.about(here)))
			}
			d.eventually(func() bool { return d.nodes.link(0).breaker.openError() != nil })
			assert.NoError(t, d.nodes.link(8192).breaker.openError())
			assert.NoError(t, d.Do(context.Background(), d.about(here)))
			away.Store(false)
			close(back)
			d.eventually(func() bool { return d.Do(context.Background(), d.about(there)) == nil })
		})
	}
}

// A breaker does not stay open for a slot that another link has now.
func TestSlotGetsAnotherLink(t *testing.T) {
	away := make(chan struct{})
	d := onCluster(t, pointer(three), func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if words[0] == "EVALSHA" {
			select {
			case <-away:
			default:
				return rueidis.NewErrorResult(io.EOF)
			}
		}
		return send()
	})
	d.clock.timeout, d.Timeout = 100*time.Millisecond, 100*time.Millisecond
	d.nodes.refreshAt.Store(int64(time.Hour))
	name := d.inSlots(200, 16383)
	assert.Error(t, d.Do(context.Background(), d.about(name)))
	l := d.nodes.link(0)
	d.eventually(func() bool { return l.breaker.incident.Load() != nil })
	d.nodes.refreshAt.Store(0)
	d.nodes.refresh(d.Dispatcher, d.client)
	d.eventually(func() bool { return l.breaker.incident.Load() == nil })
	assert.NotSame(t, l, d.nodes.link(slotOf(d.prefix+name)))
	close(away)
	assert.NoError(t, d.Do(context.Background(), d.about(name)))
}

// A real cluster says what the links are made of.
func TestMastersOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	option := rueidis.ClientOption{InitAddress: []string{cluster.Masters[0].Addr}, DisableCache: true}
	inner, err := rueidis.NewClient(option)
	require.NoError(t, err)
	defer inner.Close()
	d := start(t, nil)
	d.client.Client = inner
	for i := range 30 {
		require.NoError(t, d.Do(context.Background(), d.about(fmt.Sprint(i))))
	}
	d.eventually(func() bool { return d.nodes.table.Load().linkIndex != nil })
	links := []int{1, 2, 3}
	assert.ElementsMatch(t, links, []int{d.linkOf(0), d.linkOf(slots / 2), d.linkOf(slots - 1)})
	for slot := 1; slot < slots; slot++ {
		border := slot == slots/3 || slot == 2*slots/3
		require.Equal(t, border, d.linkOf(slot) != d.linkOf(slot-1), "slots %d and %d", slot-1, slot)
	}
	all := make([]*outcome, 300)
	for i := range all {
		all[i] = d.ask(context.Background(), d.about(fmt.Sprint(i)))
	}
	for i, o := range all {
		require.NoError(t, o.wait(t).err)
		assert.Equal(t, map[bool]int64{true: 2, false: 1}[i < 30], o.count)
	}
}
