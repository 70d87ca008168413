package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

// A paused server accepts requests, and answers them once resumed. It can be killed while paused.
func TestPause(t *testing.T) {
	server := Start(t)
	client := server.Single(t)
	Do(t, client, "SET", "k", "1")
	require.NoError(t, server.Pause())
	answered := make(chan error, 1)
	go func() {
		answered <- client.Do(context.Background(), client.B().Arbitrary("INCR", "k").Build()).Error()
	}()
	select {
	case err := <-answered:
		t.Fatal("a paused server answered: ", err)
	case <-time.After(100 * time.Millisecond):
	}
	require.NoError(t, server.Resume())
	require.NoError(t, <-answered)

	require.NoError(t, server.Pause())
	server.Kill()
	require.NoError(t, server.Start())
	require.NoError(t, server.Pause()) // the cleanup has to end it
}

func TestReplica(t *testing.T) {
	master := Start(t, AppendOnly...)
	add(t, master, "before", 1, "a")
	replica := StartReplica(t, master, AppendOnly...)
	assert.Equal(t, "master", master.Role())
	assert.Equal(t, "slave", replica.Role())
	add(t, master, "after", 2, "b")
	replica.await(t, 10*time.Second, "has what the master has", func() bool {
		return replica.Admissions(t).Len() == 2
	})
	assert.Equal(t, Record{
		"before": {{At: 1, ID: "a", Weight: 1, Addr: replica.Addr}},
		"after":  {{At: 2, ID: "b", Weight: 1, Addr: replica.Addr}},
	}, replica.Admissions(t))
	Do(t, replica.Single(t), "REPLICAOF", "NO", "ONE")
	assert.Equal(t, "master", replica.Role())
}

// StepClock steps a server's clock at once, and as often as it is called. Keys expire by that clock, and a restart does
// not change it.
func TestStepClock(t *testing.T) {
	server := StartWithClock(t, AppendOnly...)
	client := server.Client(t)
	ahead := func() time.Duration {
		time, err := Do(t, client, "TIME").AsIntSlice()
		require.NoError(t, err)
		return microseconds(time[0]*1_000_000 + time[1] - now())
	}
	const near = 2 * time.Second // however slow the machine
	assert.InDelta(t, 0, ahead(), float64(near))
	Do(t, client, "SET", "k", "v", "PX", "60000")

	assert.Equal(t, -time.Hour, server.StepClock(t, -time.Hour))
	server.AwaitClock(t)
	assert.InDelta(t, -time.Hour, ahead(), float64(near))
	ttl, err := Do(t, client, "PTTL", "k").AsInt64()
	require.NoError(t, err)
	assert.InDelta(t, 3_660_000, ttl, 2000)

	assert.Equal(t, time.Minute+time.Millisecond, server.StepClock(t, time.Hour+time.Minute+time.Millisecond))
	server.AwaitClock(t)
	time.Sleep(2 * time.Millisecond) // a key expires when its millisecond is over
	assert.InDelta(t, time.Minute, ahead(), float64(near))
	exists, err := Do(t, client, "EXISTS", "k").AsInt64()
	require.NoError(t, err)
	assert.Zero(t, exists)

	server.Kill()
	require.NoError(t, server.Start())
	client = server.Client(t)
	assert.InDelta(t, time.Minute, ahead(), float64(near))
}

func now() int64 { return time.Now().UnixMicro() }

func microseconds(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// Records survive a restart. StartEmpty begins another life.
func TestRecordsOfRestarts(t *testing.T) {
	server := Start(t, AppendOnly...)
	add(t, server, "log", 1, "a")
	server.Kill()
	require.NoError(t, server.Start())
	add(t, server, "log", 2, "b")
	Do(t, server.Single(t), "BGREWRITEAOF")
	server.await(t, 10*time.Second, "has rewritten its file", func() bool {
		info, _ := server.ask("INFO", "persistence")
		return strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0")
	})
	add(t, server, "log", 3, "c")
	server.Kill()
	require.NoError(t, server.StartEmpty())
	size, err := Do(t, server.Single(t), "DBSIZE").AsInt64()
	require.NoError(t, err)
	assert.Zero(t, size)
	add(t, server, "log", 4, "d")
	server.Kill()
	require.NoError(t, server.StartEmpty())
	add(t, server, "log", 5, "e")

	at := func(at int64, id string) Admission { return Admission{At: at, ID: id, Weight: 1, Addr: server.Addr} }
	assert.Equal(t, []Record{
		{"log": {at(1, "a"), at(2, "b")}}, // until the file was rewritten,
		{"log": {at(1, "a"), at(2, "b"), at(3, "c")}},
		{"log": {at(4, "d")}},
		{"log": {at(5, "e")}},
	}, server.Records(t))
	assert.Equal(t, Record{"log": {at(1, "a"), at(2, "b"), at(3, "c"), at(4, "d"), at(5, "e")}}, server.Admissions(t))
}

func TestRecordsSayHowEntriesWent(t *testing.T) {
	server := Start(t, append(AppendOnly, "aof-timestamp-enabled yes")...)
	for i, id := range []string{"trimmed", "refunded", "reset", "flushed", "flushed too"} {
		add(t, server, "log", int64(i+1), id)
		if id == "reset" {
			Do(t, server.Single(t), "ZREMRANGEBYSCORE", "log", "-inf", "1")
			Do(t, server.Single(t), "ZREM", "log", "refunded")
			Do(t, server.Single(t), "DEL", "log")
		}
	}
	const script = `redis.call('ZADD', KEYS[1], 6, 'six') redis.call('PEXPIRE', KEYS[1], 9999)`
	Do(t, server.Single(t), "EVAL", script, "1", "log")
	Do(t, server.Single(t), "FLUSHALL")
	add(t, server, "log", 7, "left")
	var got []string
	for _, a := range server.Admissions(t)["log"] {
		got = append(got, strings.TrimSpace(fmt.Sprint(a.At, " ", a.ID, ": ", a.Gone)))
	}
	assert.Equal(t, []string{
		"1 trimmed: ZREMRANGEBYSCORE", "2 refunded: ZREM", "3 reset: DEL", "4 flushed: FLUSHALL",
		"5 flushed too: FLUSHALL", "6 six: FLUSHALL", "7 left:",
	}, got)
}

// If the end of a file is missing, the records have what a server would read from it.
func TestRecordsOfTornFile(t *testing.T) {
	zadd := "*4\r\n$4\r\nZADD\r\n$3\r\nlog\r\n$1\r\n2\r\n$4\r\ntorn\r\n"
	for _, tail := range []string{zadd[:len(zadd)-3], zadd[:2], "*1\r\n$5\r\nMULTI\r\n" + zadd + zadd} {
		server := Start(t, AppendOnly...)
		add(t, server, "log", 1, "whole")
		server.Kill()
		files, err := filepath.Glob(filepath.Join(server.dir, "appendonlydir", "*.incr.aof"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		file, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = file.WriteString(tail)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		assert.Equal(t, Record{"log": {{At: 1, ID: "whole", Weight: 1, Addr: server.Addr}}}, server.Admissions(t))
		require.NoError(t, server.Start())
		add(t, server, "log", 3, "more")
		assert.Equal(t, 2, server.Admissions(t).Len())
	}
}

func TestMissing(t *testing.T) {
	old := Record{"x": {{At: 1, ID: "a"}, {At: 2, ID: "b"}}, "y": {{At: 3, ID: "a"}}}
	young := Record{"x": {{At: 1, ID: "a"}, {At: 4, ID: "c"}}}
	assert.Equal(t, Record{"x": {{At: 2, ID: "b"}}, "y": {{At: 3, ID: "a"}}}, Missing(old, young))
	all := Record{"x": {{At: 1, ID: "a"}, {At: 2, ID: "b"}, {At: 4, ID: "c"}}, "y": {{At: 3, ID: "a"}}}
	assert.Equal(t, all, Merge(young, old))

	first := Record{"x": {{At: 9, ID: "a", Weight: 3, Moved: 7}}}
	moved := Record{"x": {{At: 7, ID: "a", Weight: 3, Moved: 5}}}
	assert.Equal(t, first, Merge(first, moved))
	assert.Equal(t, Record{"x": {{At: 9, ID: "a", Weight: 3, Moved: 5}}}, Merge(moved, first))
}

func add(t *testing.T, server *Server, log string, at int64, id string) {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{server.Addr}, ForceSingleClient: true, DisableCache: true,
	})
	require.NoError(t, err)
	defer client.Close()
	Do(t, client, "ZADD", log, fmt.Sprint(at), id)
}
