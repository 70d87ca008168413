package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// raw is a connection on which a test writes bytes.
type raw struct {
	*net.TCPConn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) raw {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second)) // so that a reply that never comes fails the test
	return raw{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// ask sends requests at once, each given as a line of words, and returns the replies, and "ended" if the connection
// ends.
func (r raw) ask(t *testing.T, requests ...string) []string {
	t.Helper()
	var all strings.Builder
	for _, request := range requests {
		all.WriteString(encode(strings.Fields(request)))
	}
	if _, err := r.Write([]byte(all.String())); err != nil {
		return []string{"ended"}
	}
	var replies []string
	for range requests {
		reply, err := redistest.ReadValue(r.in)
		if err != nil {
			assert.Empty(t, reply, "a reply breaks off")
			var timeout net.Error
			assert.False(t, errors.As(err, &timeout) && timeout.Timeout(), "no reply, and no end")
			return append(replies, "ended")
		}
		replies = append(replies, strings.TrimSpace(string(reply)))
	}
	return replies
}

func encode(words []string) string {
	text := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	return text
}

func get(t *testing.T, server *redistest.Server, key string) string {
	t.Helper()
	text, err := redistest.Do(t, server.Client(t), "GET", key).ToString()
	if rueidis.IsRedisNil(err) {
		return ""
	}
	require.NoError(t, err)
	return text
}

// Through the proxy, all kinds of requests, in pieces of any size, get the same replies to the byte as without it.
func TestProxyPassesBytes(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	seed := rand.Uint64()
	t.Log("seed ", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	big := strings.Repeat("\r\n*3\r\n", 50_000) // larger than any buffer, and looks like the protocol
	var said strings.Builder
	requests := 0
	say := func(words ...string) { said.WriteString(encode(words)); requests++ }
	sha, err := redistest.Do(t, server.Client(t), "SCRIPT", "LOAD", lua.Decide).ToString()
	require.NoError(t, err)
	say("HELLO", "2")
	say("CLIENT", "SETINFO", "LIB-NAME", "x")
	for i := range 2000 {
		switch i % 10 {
		case 0:
			say("HELLO", fmt.Sprint(2+random.IntN(2)), "SETNAME", "x") // a list, or a map
		case 1:
			say("EVALSHA", sha, "1", "log", fmt.Sprint("id", i), "one", "1", "9", "60000000") // integers, then lists
		case 2:
			say("EVALSHA", strings.Repeat("0", 40), "0") // NOSCRIPT
		case 3:
			say("SET", "big", big)
		case 4:
			say("EVAL", "return {1,{'two',{false,{}}},{double=3.5},redis.error_reply('ERR x')}", "0")
		case 5:
			say("GET", "no such key")
		case 6:
			say("HGETALL", "no such hash")
		case 7:
			say("EVAL", "redis.setresp(3) return {{map={a=true}},{set={b=1}},{double=1.5}}", "0")
		case 8:
			said.WriteString("PING inline\r\n\r\n") // and an empty line, which is not answered
			requests++
		case 9:
			say("PING", fmt.Sprint(i))
		}
	}
	say("GET", "big")
	say("CLIENT", "TRACKING", "ON")
	say("QUIT")

	converse := func(addr string) []byte {
		redistest.Do(t, server.Client(t), "DEL", "log", "big")
		conn := dial(t, addr)
		var writing sync.WaitGroup
		writing.Go(func() {
			for rest := []byte(said.String()); len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(200_000))
				conn.Write(rest[:n])
				rest = rest[n:]
			}
		})
		replies, err := io.ReadAll(conn.in)
		require.NoError(t, err)
		writing.Wait()
		return replies
	}
	direct, proxied := converse(server.Addr), converse(proxy.Addr)
	for name, replies := range map[string][]byte{"direct": direct, "proxied": proxied} {
		in, n := bufio.NewReader(bytes.NewReader(replies)), 0
		for {
			if _, err := redistest.ReadValue(in); err == io.EOF {
				break
			} else {
				require.NoError(t, err, name)
			}
			n++
		}
		assert.Equal(t, requests, n, name)
	}
	assert.Equal(t, requests, proxy.Counts().Requests)
	assert.Equal(t, requests, proxy.Counts().Replies)
	assert.Equal(t, comparable(t, direct), comparable(t, proxied))
}

// comparable returns replies without what differs each time: the number of a connection, and the time left in a window.
func comparable(t *testing.T, replies []byte) string {
	t.Helper()
	var kept bytes.Buffer
	in := bufio.NewReader(bytes.NewReader(replies))
	for {
		value, err := redistest.ReadValue(in)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		lines := strings.Split(string(value), "\r\n")
		for i, line := range lines {
			if !strings.HasPrefix(line, ":") || len(lines) == 2 {
				fmt.Fprint(&kept, i, line)
			}
		}
	}
	return kept.String()
}

func TestProxyFates(t *testing.T) {
	for _, table := range []struct {
		name    string
		fate    Fate
		replies []string // to five INCR sent at once, of which the third meets the fate
		least   int      // how many of them are executed at least
		most    int
	}{
		{"a lost request", LoseRequest, []string{":1", ":2", "ended"}, 2, 2},
		{"a lost reply", LoseReply, []string{":1", ":2", "ended"}, 3, 5},
		{"a delayed request", DelayRequest, []string{":1", ":2", ":3", ":4", ":5"}, 5, 5},
		{"a delayed reply", DelayReply, []string{":1", ":2", ":3", ":4", ":5"}, 5, 5},
	} {
		t.Run(table.name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := NewProxy(t, server.Addr, 1)
			conn := dial(t, proxy.Addr)
			proxy.Strike(Faults{Delay: 50 * time.Millisecond})
			proxy.Next("incr", Pass)
			proxy.Next("INCR", Pass)
			proxy.Next("INCR", table.fate)
			asked := time.Now()
			assert.Equal(t, table.replies, conn.ask(t, "INCR n", "INCR n", "INCR n", "INCR n", "INCR n"))
			if table.fate == DelayRequest || table.fate == DelayReply {
				assert.GreaterOrEqual(t, time.Since(asked), 50*time.Millisecond)
			}
			n := 0
			fmt.Sscan(get(t, server, "n"), &n)
			assert.GreaterOrEqual(t, n, table.least)
			assert.LessOrEqual(t, n, table.most)
			assert.Equal(t, []Struck{{table.fate, []string{"INCR", "n"}}}, proxy.Struck())
			assert.Equal(t, map[Fate]int{table.fate: 1}, proxy.Counts().Fates)
			assert.Equal(t, []string{"+PONG"}, dial(t, proxy.Addr).ask(t, "PING"), "others are served")
		})
	}
}

// If a request that is alone is lost, the server does not execute it. If its reply is lost, the server does.
func TestProxyLosesOne(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	proxy.Next("INCR", LoseRequest)
	assert.Equal(t, []string{"ended"}, dial(t, proxy.Addr).ask(t, "INCR n"))
	assert.Empty(t, get(t, server, "n"))
	proxy.Next("INCR", LoseReply)
	assert.Equal(t, []string{"ended"}, dial(t, proxy.Addr).ask(t, "INCR n"))
	assert.Equal(t, "1", get(t, server, "n"))
	assert.Equal(t, []string{":2"}, dial(t, proxy.Addr).ask(t, "INCR n"))
}

func TestProxyResets(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	conn := dial(t, proxy.Addr)
	assert.Equal(t, []string{"+PONG"}, conn.ask(t, "PING"))
	proxy.Next("PING", Reset)
	assert.Equal(t, []string{"ended"}, conn.ask(t, "PING"))

	conn = dial(t, proxy.Addr)
	assert.Equal(t, []string{"+PONG"}, conn.ask(t, "PING"))
	proxy.Cut()
	_, err := conn.in.ReadByte()
	assert.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestProxyHolds(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	old := dial(t, proxy.Addr)
	assert.Equal(t, []string{":1"}, old.ask(t, "INCR n"))
	proxy.Hold()
	proxy.Hold()
	var held sync.WaitGroup
	for _, conn := range []raw{old, dial(t, proxy.Addr)} { // both an open connection and a new one
		held.Go(func() { assert.Contains(t, []string{":2", ":3"}, conn.ask(t, "INCR n")[0]) })
	}
	time.Sleep(50 * time.Millisecond)
	assert.Equal(t, "1", get(t, server, "n"))
	require.NoError(t, proxy.Heal())
	held.Wait()
	assert.Equal(t, "3", get(t, server, "n"))

	proxy.Hold() // what is held when the proxy closes is lost
	_, err := old.Write([]byte(encode([]string{"INCR", "n"})))
	require.NoError(t, err)
	proxy.Close()
	assert.Equal(t, "3", get(t, server, "n"))
}

func TestProxyRefuses(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	old := dial(t, proxy.Addr)
	assert.Equal(t, []string{"+PONG"}, old.ask(t, "PING"))
	proxy.Refuse()
	proxy.Refuse()
	_, err := net.Dial("tcp", proxy.Addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Equal(t, []string{"+PONG"}, old.ask(t, "PING"))
	require.NoError(t, proxy.Heal())
	require.NoError(t, proxy.Heal())
	assert.Equal(t, []string{"+PONG"}, dial(t, proxy.Addr).ask(t, "PING"))

	server.Kill() // without a server, the proxy closes connections
	if conn, err := net.Dial("tcp", proxy.Addr); err == nil {
		_, err = conn.Read(make([]byte, 1))
		assert.Error(t, err)
		conn.Close()
	}
}

// With the same seed the nth request of the kth connection meets the same fate, if it is of the command.
func TestProxySeed(t *testing.T) {
	server := redistest.Start(t)
	fates := func(seed uint64) (fates []string) {
		proxy := NewProxy(t, server.Addr, seed)
		proxy.Strike(Faults{Command: "ECHO", LoseRequest: .05, LoseReply: .05, Reset: .05, DelayRequest: .1,
			DelayReply: .1})
		for c := range 20 {
			conn := dial(t, proxy.Addr)
			for r := range 20 {
				if conn.ask(t, "PING")[0] != "+PONG" || conn.ask(t, fmt.Sprintf("ECHO %d.%d", c, r))[0] == "ended" {
					break
				}
			}
		}
		for _, struck := range proxy.Struck() {
			require.Equal(t, "ECHO", struck.Words[0])
			fates = append(fates, fmt.Sprint(struck.Fate, " ", struck.Words[1]))
		}
		proxy.Close()
		return fates
	}
	first := fates(7)
	assert.Greater(t, len(first), 20)
	assert.Equal(t, first, fates(7))
	assert.NotEqual(t, first, fates(8))
}

// Under all faults at once, each answer that a client gets is right, and the server has executed no request twice.
func TestProxyUnderFire(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t)
	seed := rand.Uint64()
	t.Log("seed ", seed)
	proxy := NewProxy(t, server.Addr, seed)
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{proxy.Addr}, DisableCache: true, AlwaysPipelining: true, ForceSingleClient: true,
		DisableRetry: true,
	})
	require.NoError(t, err)
	defer client.Close()
	proxy.Strike(Faults{
		Command: "INCRBY", LoseRequest: .003, LoseReply: .003, Reset: .003, DelayRequest: .003, DelayReply: .003,
		Delay: 2 * time.Millisecond,
	})
	var mu sync.Mutex
	var all sync.WaitGroup
	answered, unknown := 0, 0
	seen := map[int64]bool{}
	for range 8 {
		all.Go(func() {
			for range 500 {
				n, err := client.Do(context.Background(), client.B().Incrby().Key("n").Increment(1).Build()).AsInt64()
				mu.Lock()
				if err != nil {
					unknown++
				} else {
					answered++
					assert.False(t, seen[n], "two callers were told of the same %d", n)
					seen[n] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	done := 0
	fmt.Sscan(get(t, server, "n"), &done)
	assert.GreaterOrEqual(t, done, answered)
	assert.LessOrEqual(t, done, answered+unknown)
	assert.Positive(t, unknown)
	t.Log(answered, " answered, ", unknown, " not, ", done, " done; ", proxy.Counts())
}

// After SUBSCRIBE, replies are not counted, and none is lost.
func TestProxyPassesSubscriptions(t *testing.T) {
	server := redistest.Start(t)
	for _, version := range []string{"2", "3"} {
		proxy := NewProxy(t, server.Addr, 1)
		conn := dial(t, proxy.Addr)
		// two confirmations of the first
		assert.Len(t, conn.ask(t, "HELLO "+version, "SUBSCRIBE a b", "SUBSCRIBE c"), 3)
		value, err := redistest.ReadValue(conn.in)
		require.NoError(t, err)
		assert.Contains(t, string(value), "c")
		redistest.Do(t, server.Client(t), "PUBLISH", "a", "news")
		value, err = redistest.ReadValue(conn.in)
		require.NoError(t, err)
		assert.Contains(t, string(value), "news")
	}
}

// A replica follows its master through a proxy, although its stream is no list of replies, and falls behind under Hold.
func TestProxyBeforeReplica(t *testing.T) {
	master := redistest.Start(t)
	proxy := NewProxy(t, master.Addr, 1)
	front := *master
	front.Addr = proxy.Addr
	redistest.Do(t, master.Client(t), "SET", "k", strings.Repeat("x", 1<<20))
	replica := redistest.StartReplica(t, &front)
	assert.Len(t, get(t, replica, "k"), 1<<20)
	proxy.Hold()
	redistest.Do(t, master.Client(t), "SET", "k", "new")
	time.Sleep(20 * time.Millisecond)
	assert.Len(t, get(t, replica, "k"), 1<<20)
	require.NoError(t, proxy.Heal())
	assert.Eventually(t, func() bool { return get(t, replica, "k") == "new" }, 10*time.Second, 10*time.Millisecond)
}

// A narrow network takes time for every byte, in each direction, for all connections together.
func TestProxyNarrow(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	text := strings.Repeat("x", 20_000)
	begun := time.Now()
	proxy.Narrow(1_000_000)
	var all sync.WaitGroup
	for range 5 {
		conn := dial(t, proxy.Addr)
		all.Go(func() {
			assert.Contains(t, conn.ask(t, "ECHO "+text)[0], text)
		})
	}
	all.Wait()
	assert.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)
	conn := dial(t, proxy.Addr)
	proxy.Narrow(1)
	require.NoError(t, proxy.Heal())
	assert.Contains(t, conn.ask(t, "ECHO "+text)[0], text)
}

// What is not a request is not forwarded. A request that is cut off is forwarded as it is.
func TestProxyOfNonsense(t *testing.T) {
	server := redistest.Start(t)
	proxy := NewProxy(t, server.Addr, 1)
	for _, nonsense := range []string{"*x\r\n", "*1\r\n$x\r\n", "*1\r\n:5\r\n"} {
		conn := dial(t, proxy.Addr)
		conn.Write([]byte(nonsense))
		_, err := conn.in.ReadByte()
		assert.Error(t, err, nonsense)
	}
	conn := dial(t, proxy.Addr)
	conn.Write([]byte(encode([]string{"PING"}) + "*2\r\n$4\r\nECH"))
	conn.CloseWrite()
	all, err := io.ReadAll(conn.in)
	require.NoError(t, err)
	assert.Equal(t, "+PONG\r\n", string(all))
}
