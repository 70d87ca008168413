package core

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/dispatch"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Row 18 of "What got through": a Redis that rejects calls is reported, by the code alone, and decides again when the
// cause is removed. An outage just after it is reported too.
func TestRejections(t *testing.T) {
	for code, row := range map[string]struct{ config, cause, remove string }{
		"NOPERM":     {"", "ACL SETUSER default -zadd", "ACL SETUSER default +zadd"},
		"NOREPLICAS": {"", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"},
		"READONLY":   {"", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"},
		"MISCONF":    {"save 3600 1", "BGSAVE", "CONFIG SET stop-writes-on-bgsave-error no"},
	} {
		t.Run(code, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.Mkdir(dir, 0o700))
			server := redistest.Start(t, row.config, "dir "+dir)
			admin := server.Client(t)
			said := &record{}
			limiter := connectTo(t, server.URL(), WithTimeout(time.Second), said.logger())
			ctx, limit := context.Background(), PerHour("a", 1_000_000)
			until := func(source Source) {
				t.Helper()
				require.Eventually(t, func() bool {
					d, err := limiter.Allow(ctx, "a secret key", limit)
					return err == nil && d.Source == source
				}, 20*time.Second, time.Millisecond)
			}
			const rejects = `level=WARN msg="exactlimit: Redis rejects calls; requests are decided without it" error=`
			until(SourceRedis)
			if code == "MISCONF" { // it cannot save, so it takes no writes
				require.NoError(t, os.Remove(dir))
			}
			redistest.Do(t, admin, strings.Fields(row.cause)...)
			until(SourceInProcess)
			redistest.Do(t, admin, strings.Fields(row.remove)...)
			until(SourceRedis)
			told := said.all()
			require.NotEmpty(t, told)
			assert.Contains(t, told[0], rejects+code+"\n")

			server.Kill()
			until(SourceInProcess)
			require.Eventually(t, func() bool {
				_, err := limiter.Allow(ctx, "a secret key", limit)
				require.NoError(t, err)
				return strings.Contains(fmt.Sprint(said.all()), "Redis does not answer")
			}, 10*time.Second, time.Millisecond)
			assert.NotContains(t, fmt.Sprint(said.all()), "secret")
		})
	}
}

// A key that is no log is an error that says which limit's it is, and neither that error nor the report names the key.
// Requests of other keys are not affected, nor is this one when the key is gone.
func TestKeyThatIsNoLog(t *testing.T) {
	client, prefix, said := redistest.Shared(t).Client(t), redistest.Prefix(), &record{}
	limiter := newOver(t, client, WithPrefix(prefix), patient, said.logger())
	ctx, one, two := context.Background(), PerHour("one", 5), PerDay("two", 5)
	key := string(appendLogKey(nil, prefix, "a secret key", one))
	redistest.Do(t, client, "SET", key, "no log")
	const wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
	for text, call := range map[string]func(l *Limiter) error{
		`exactlimit: unavailable: the log of limit "one": ` + wrong: func(l *Limiter) error {
			_, err := l.Allow(ctx, "a secret key", one)
			return err
		},
		`exactlimit: unavailable: the logs of limits "two", "one": ` + wrong: func(l *Limiter) error {
			_, err := l.Peek(ctx, "a secret key", two, one)
			return err
		},
	} {
		err := call(limiter.OnFailure(FailClosed))
		assert.EqualError(t, err, text)
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.NoError(t, call(limiter), "decided without Redis")
	}
	d, err := limiter.Allow(ctx, "another", one, two)
	require.NoError(t, err)
	assert.Equal(t, SourceRedis, d.Source)
	require.Len(t, said.all(), 1)
	assert.Contains(t, said.all()[0], "error=WRONGTYPE\n")
	require.NoError(t, limiter.Reset(ctx, "a secret key", one))
	d, err = limiter.Allow(ctx, "a secret key", one, two)
	require.NoError(t, err)
	assert.Equal(t, SourceRedis, d.Source)
}

// A Redis whose memory is full goes on to decide: what it takes for that is less than what would be lost.
func TestFullMemory(t *testing.T) {
	server := redistest.Start(t, "maxmemory-policy noeviction")
	said := &record{}
	limiter := connectTo(t, server.URL(), patient, said.logger())
	admin := server.Client(t)
	redistest.Do(t, admin, "CONFIG", "SET", "maxmemory", "1mb")
	err := admin.Do(context.Background(), admin.B().Set().Key("other").Value("data").Build()).Error()
	require.ErrorContains(t, err, "OOM")
	for i := range 5 {
		d, err := limiter.Allow(context.Background(), "ann", PerHour("a", 3), PerDay("b", 9))
		require.NoError(t, err)
		assert.Contains(t, []Source{SourceRedis, SourceDenialCache}, d.Source)
		assert.Equal(t, i < 3, d.Allowed)
	}
	assert.Empty(t, said.all())
}

// Row 18 of "What got through": behind one address another server becomes the master, and connections to the old one
// stay. They are dropped, the new master is found, and as every request is decided by Redis there is nothing to report.
func TestFailoverBehindOneAddress(t *testing.T) {
	for name, connect := range map[string]func(t *testing.T, addr string, opts ...Option) (*Limiter, error){
		"Connect": func(_ *testing.T, addr string, opts ...Option) (*Limiter, error) {
			return Connect("redis://"+addr, opts...)
		},
		"New, with 16 connections": func(t *testing.T, addr string, opts ...Option) (*Limiter, error) {
			client, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{addr}, DisableCache: true, PipelineMultiplex: 4,
			})
			require.NoError(t, err)
			t.Cleanup(client.Close)
			return New(client, opts...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			master := redistest.Start(t)
			replica := redistest.StartReplica(t, master)
			address := redistest.StartAddress(t, master)
			said := &record{}
			limiter, err := connect(t, address.Addr, WithTimeout(20*time.Second), said.logger())
			require.NoError(t, err)
			defer limiter.Close()
			ctx, limit := context.Background(), PerHour("a", 1000)
			n := 0
			allow := func() {
				n++
				for _, key := range []string{"ann", "bob", "cay", "dan"} {
					d, err := limiter.Allow(ctx, key, limit)
					require.NoError(t, err)
					assert.Equal(t, SourceRedis, d.Source)
					assert.Equal(t, 1000-n, d.Remaining)
				}
			}
			for range 20 {
				allow()
			}
			for range 2 { // and back again
				admin := replica.Client(t)
				require.Eventually(t, func() bool { // it has all
					last, err := redistest.Do(t, admin, "ZCARD",
						string(appendLogKey(nil, "exactlimit", "dan", limit))).AsInt64()
					return err == nil && int(last) == n
				}, 20*time.Second, 10*time.Millisecond)
				redistest.Do(t, admin, "REPLICAOF", "NO", "ONE")
				host, port, _ := strings.Cut(replica.Addr, ":")
				redistest.Do(t, master.Client(t), "REPLICAOF", host, port)
				address.Point(replica)
				for range 20 {
					allow()
				}
				master, replica = replica, master
			}
			assert.Empty(t, said.all())
		})
	}
}

// A user who lacks a right that a call needs gets the server's error, and the call has charged nothing. Rights that it
// does not need do not matter.
func TestMissingRights(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client(t)
	calls := []struct{ logs, args, needs string }{
		{"A", "c1 one 1 3 m", "time zcard zadd pexpire"},
		{"A B C", "c2 one 3 3 m", "time zcard zadd pexpire"},
		{"A some", "c3 one 2 9 m", "time zcard zcount zadd pexpire"},
		{"A old", "c4 one 2 9 m", "time zcard zcount zremrangebyscore zadd pexpire"},
		{"A some full", "c5 one 3 2 m", "time zcard zcount zadd pexpire zrange"},
		{"A full", "c6 one 1 9 m peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"A full", "c7 admit 1 1 2 2 1 9 m 0 peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"some B full", "c8 admit 2 1 1 3 0 9 m 0 peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"weighs full", "c9 admit 1 1 1 3 0 9 m 0 peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"A faded", "ca admit 2 1 1 1 0 9 m 0", "time zcard zcount zadd pexpire zrange zremrangebyscore zrem"},
		{"A B", "d1 again one 2 3 m", "time zcard zscore zadd pexpire"},
		{"A weighs", "d2 one 1 3 m settle 1 w.1 1 0 2 0 m", "time zcard zscore zadd pexpire zrem zrangebyscore unlink"},
		{"A weighs", "d2 one 1 3 m settle 1 w.1 1 0 2 9 m", "time zcard zscore zadd pexpire"},
		{"weighs A full", "d2 settle 2 w.1 1 0 2 9 m m peek 1 1 1 m 0",
			"time zcard zcount zscore zadd pexpire zrange"},
		{"A full", "d3 one 1 3 m reset 1", "time zcard zadd pexpire unlink"},
		{"A full", "d5 one 1 3 m renew 1 1 f.1 m", "time zcard zscore zadd pexpire"},
		{"A A:probe", "d4 probe",
			"time zcard zcount zscore zrange zrangebyscore zadd zrem zremrangebyscore zremrangebyrank unlink pexpire"},
	}
	all := strings.Fields(calls[len(calls)-1].needs)
	logs := []string{"A", "B", "C", "some", "full", "old", "weighs", "faded"}
	for _, c := range calls {
		for _, right := range all {
			redistest.Do(t, admin, "FLUSHALL")
			now := fmt.Sprint(time.Now().UnixMicro())
			redistest.Do(t, admin, "ZADD", "some", now, "s.1")
			redistest.Do(t, admin, "ZADD", "full", now, "f.1", now, "f.2")
			redistest.Do(t, admin, "ZADD", "old", "1", "o.1", now, "o.2")
			redistest.Do(t, admin, "ZADD", "weighs", "-1", "*", now, "w.1*2")
			redistest.Do(t, admin, "ZADD", "faded", "-1", "*", "1", "o.1*2", now, "o.2")
			entries := func() map[string]map[string]int64 {
				there := map[string]map[string]int64{}
				for _, log := range logs {
					there[log] = members(t, admin, log)
					for member := range there[log] {
						if member == "o.1" || member == "~" || log == "faded" && member != "o.2" {
							// It may be removed, or remain: it charges nothing.
							delete(there[log], member)
						}
					}
				}
				return there
			}
			before := entries()
			redistest.Do(t, admin, "ACL", "SETUSER", "some", "reset", "on", ">pw", "~*", "+@all", "-"+right)
			client, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{server.Addr}, Username: "some", Password: "pw", DisableCache: true,
				ForceSingleClient: true,
			})
			require.NoError(t, err)
			err = callOn(client, c.logs, c.args).Error()
			client.Close()
			if !slices.Contains(strings.Fields(c.needs), right) {
				require.NoError(t, err, "%s without %s", c.args, right)
				continue
			}
			// Redis 7.0 has no code for it.
			require.Equal(t, "NOPERM", dispatch.Code(err), "%s without %s: %v", c.args, right, err)
			if right == "zrem" || right == "unlink" || strings.Contains(c.args, "0 2 0 ") ||
				strings.Contains(c.args, "renew") {
				continue // it cannot be taken back, or something may have been given back, or renewed
			}
			require.Equal(t, before, entries(), "%s without %s", c.args, right)
		}
	}
}

// callWithout makes a call without a right. It returns the error of the whole call, if it fails.
func (c clockedRedis) callWithout(
	t *testing.T, right string, now int64, logs, args string,
) ([]rueidis.RedisMessage, error) {
	c.load(t, c.without(t, right)) // only for this copy of c
	return c.tryCall(t, now, c.names(logs), argsOf(args))
}

// fails checks that a call without a right fails.
func (c clockedRedis) fails(t *testing.T, right string, now int64, logs, args string) {
	t.Helper()
	_, err := c.callWithout(t, right, now, logs, args)
	require.ErrorContains(t, err, "command called from script") // Valkey leaves out the word Redis
}

// ttl returns the milliseconds until a log expires, of which slack is an hour.
func (c clockedRedis) ttl(t *testing.T, log string) int64 {
	ttl, err := redistest.Do(t, c.client, "PTTL", c.names(log)[0]).AsInt64()
	require.NoError(t, err)
	return ttl - 3_600_000
}

// setTTL sets the milliseconds until a log expires, as if time had passed. Time passes only on the test's clock.
func (c clockedRedis) setTTL(t *testing.T, log string, ttl int64) {
	redistest.Do(t, c.client, "PEXPIRE", c.names(log)[0], fmt.Sprint(3_600_000+ttl))
}

// A right that is missing for one call does not make later calls admit more than max: neither loses the mark * units of
// live entries, nor does a log lose its expiry together with its expired entries.
func TestRightMissingForOneCall(t *testing.T) {
	redis := newClockedRedis(t)
	const w = "10000000"
	for log, args := range map[string]string{
		"A": "c one 1 10 " + w, "B": "c admit 1 1 1 2 0 10 " + w + " 0", "C": "c peek 1 1 10 " + w + " 0",
	} {
		redis.on(t, 0, log, "a admit 1 1 1 4 0 10 "+w+" 0")
		redis.on(t, 5*second, log, "b admit 1 1 1 6 0 10 "+w+" 0")
		redis.fails(t, "ZREMRANGEBYSCORE", 11*second, log, args)
		requireMarks(t, redis.client, redis.names(log)[0])
		reply := redis.on(t, 12*second, log, "d admit 1 1 9 1 0 10 "+w+" 0")
		assert.True(t, strings.HasPrefix(reply, "[4 0 "), "6 of 10 units are live, so 4 are admitted: %s", reply)
	}
	for log, args := range map[string]string{"D": "c one 1 20 " + w, "E": "c admit 1 1 1 2 0 20 " + w + " 0"} {
		redis.on(t, 0, log+" "+log, "a admit 2 1 1 2 0 20 "+w+" 0")
		redis.on(t, 9*second, log+" "+log, "b one 2 20 "+w)
		redis.fails(t, "PEXPIRE", 11*second, log, args)
		redis.setTTL(t, log, 20_000-18_000)
		redis.on(t, 18*second, log, "d one 1 20 "+w)
		assert.Greater(t, redis.ttl(t, log), int64(10_000-1000), "the entry of 18 s counts until 28 s: %s", args)
	}
}

// A question that fails after it has removed expired entries from a log sets the expiry of the log nevertheless. Calls
// that find no expired entry rely on it.
func TestExpiryAfterAFailure(t *testing.T) {
	const w = "10000000"
	t.Run("of another log that is damaged", func(t *testing.T) {
		redis := newClockedRedis(t)
		redis.on(t, 0, "A A", "a one 2 20 "+w)
		redis.on(t, 9*second, "A A", "b one 2 20 "+w)
		redistest.Do(t, redis.client, "ZADD", redis.names("bad")[0], "-5", "!x", fmt.Sprint(epoch+second), "a")
		redis.setTTL(t, "A", 20_000-11_000)
		reply := redis.on(t, 11*second, "A bad", "c admit 1 2 1 1 0 20 "+w+" 0 20 "+w+" 0")
		require.Contains(t, reply, "the log is damaged")
		require.Len(t, members(t, redis.client, redis.names("A")[0]), 2, "the expired entries are removed")
		assert.Greater(t, redis.ttl(t, "A"), int64(18_000-1000), "an entry of 18.9 s counts until 28.9 s")
	})
	t.Run("of a command", func(t *testing.T) {
		redis := newClockedRedis(t)
		redis.on(t, 0, "A A", "a one 2 20 "+w)
		redis.on(t, 9*second, "A A", "b one 2 20 "+w)
		redis.setTTL(t, "A", 20_000-11_000)
		redis.fails(t, "ZADD", 11*second, "B A", "c admit 1 2 1 1 0 20 "+w+" 0 20 "+w+" 0")
		require.Len(t, members(t, redis.client, redis.names("A")[0]), 2, "the expired entries are removed")
		assert.Greater(t, redis.ttl(t, "A"), int64(18_000-1000), "an entry of 18.9 s counts until 28.9 s")
	})
}

// A settle that lacks a right for one call gives nothing back, and in particular no units of other requests.
func TestRightMissingForASettle(t *testing.T) {
	for _, right := range []string{"ZSCORE", "ZRANGEBYSCORE", "ZADD", "ZREM"} {
		redis := newClockedRedis(t)
		redis.on(t, 0, "A", "a admit 1 1 3 2 0 9 m 0")
		redis.on(t, 0, "A", "b admit 1 1 1 2 0 9 m 0")
		for _, args := range []string{
			"c settle 1 a.1 3 0 2 0 m", "d settle 1 b.1 1 0 2 0 m", "e settle 1 b.1 1 0 2 1 m",
		} {
			redis.fails(t, right, 1, "A", args)
			there := members(t, redis.client, redis.names("A")[0])
			delete(there, "~")
			want := map[string]int64{"*": -6, "a.1*6": epoch, "b.1*2": epoch}
			assert.Equal(t, want, there, "%s without %s", args, right)
		}
	}
}

// Without the right to ZADD, a call does not remove the mark * because the entries that it stands for have expired.
// Otherwise a later call that removes only some of them would believe that the log has less units than it has.
func TestMarkStaysWithoutZADD(t *testing.T) {
	redis := newClockedRedis(t)
	const w = "10000000"
	for i := range 9 {
		redis.on(t, int64(i), "B", fmt.Sprint("a", i, " admit 1 1 1 5 0 45 "+w+" 0"))
	}
	redis.on(t, 9*second, "B", "b one 1 90 "+w)
	redis.fails(t, "ZADD", 11*second, "A B", "c one 2 10 "+w)
	fill(t, redis.client, redis.names("C")[0], epoch, 980, "") // cleaning it leaves little budget
	redis.on(t, 12*second, "C B", "d one 1 10000 "+w+" admit 1 1 1 5 0 10 "+w+" 0")
	requireMarks(t, redis.client, redis.names("B")[0])
	granted := 0
	for i := range 20 {
		if reply := redis.on(t, 12*second, "B", fmt.Sprint("e", i, " one 1 10 "+w)); !strings.HasPrefix(reply, "[0 ") {
			granted++
		}
	}
	assert.LessOrEqual(t, granted, 9, "one of ten units is that of 9 s")
}

// A question that cannot remove expired entries, and is to be asked again for lack of budget, has charged nothing.
func TestNothingIsChargedBeforeAnotherCall(t *testing.T) {
	redis := newClockedRedis(t)
	const w = "10000000"
	redis.on(t, 0, "B", "a admit 1 1 1 3 0 9 "+w+" 0")
	redis.on(t, 9*second, "B", "b admit 1 1 1 2 0 9 "+w+" 0")
	before := members(t, redis.client, redis.names("B")[0])
	fill(t, redis.client, redis.names("A")[0], epoch, 2000, "")
	redistest.Do(t, redis.client, "ZADD", redis.names("A")[0], fmt.Sprint(epoch+9*second), "there.1")
	reply, err := redis.callWithout(t, "ZREMRANGEBYSCORE", 12*second, "A B", "c one 1 10000 "+w+" one 1 9 "+w)
	require.NoError(t, err)
	assert.Equal(t, "9998 -1", text(t, reply))
	assert.Equal(t, before, members(t, redis.client, redis.names("B")[0]))
}

// A ban outlives the entries of its log, even if a command fails when they have expired. For instance, Redis Cluster
// refuses to create a key in a slot that moves.
func TestBanOutlivesItsEntries(t *testing.T) {
	for name, question := range map[string]string{
		"a request": "c admit 1 1 1 1 0 2 s m", "a peek": "c peek 1 1 2 s m", "a settle": "c settle 1 a.1 3 1 2 0 s",
	} {
		t.Run(name, func(t *testing.T) {
			redis, now := newClockedRedis(t), 2*second
			redis.on(t, 0, "A", "a admit 1 1 3 2 0 6 s 0")
			redis.on(t, 0, "A", "b admit 1 1 1 1 0 6 s m")
			if name == "a settle" {
				now = second / 2
				redis.on(t, now, "A A", "b settle 1 a.1 3 0 2 0 s settle 1 a.1 3 2 2 0 s")
			}
			_, err := redis.callWithout(t, "ZADD", now, "A", question)
			require.NoError(t, err)
			assert.Equal(t, "[0 2 0 0 1]", redis.on(t, minute-1, "A", "d admit 1 1 1 1 0 2 s 0"))
			assert.Equal(t, "1", redis.on(t, minute, "A", "e admit 1 1 1 1 0 2 s 0"))
		})
	}
}

// An attempt of a call that fails after its own retry takes back nothing that the retry was granted.
func TestFailureOfALateCall(t *testing.T) {
	for _, args := range []string{"one 2 1 s", "admit 2 1 3 2 0 6 s 0", "admit 1 2 1 1 0 1 s 0 1 s 0"} {
		redis := newClockedRedis(t)
		redis.on(t, 0, "A B", "late again "+args)
		granted := func() [2]map[string]int64 {
			return [2]map[string]int64{
				members(t, redis.client, redis.names("A")[0]), members(t, redis.client, redis.names("B")[0]),
			}
		}
		before := granted()
		require.NotEmpty(t, before[0])
		require.NotEmpty(t, before[1])
		redis.fails(t, "ZRANGE", second/2, "A B", "late "+args)
		assert.Equal(t, before, granted(), args)
	}
}

// What a call has charged is taken back when it fails, and what it has given back in the same log stays given back.
func TestFailureAfterSettles(t *testing.T) {
	server := redistest.Start(t)
	admin, now := server.Client(t), fmt.Sprint(time.Now().UnixMicro())
	redistest.Do(t, admin, "ZADD", "log", "-9", "*", now, "w.1*7", now, "x.1*4")
	redistest.Do(t, admin, "ZADD", "full", now, "f.1")
	redistest.Do(t, admin, "ACL", "SETUSER", "some", "reset", "on", ">pw", "~*", "+@all", "-zrange")
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{server.Addr}, Username: "some", Password: "pw", DisableCache: true,
		ForceSingleClient: true,
	})
	require.NoError(t, err)
	defer client.Close()
	args := "c settle 1 w.1 1 0 7 20 m settle 1 x.1 1 0 4 2 m peek 1 1 1 m 0"
	err = callOn(client, "log log full", args).Error()
	require.Equal(t, "NOPERM", dispatch.Code(err), err)
	left := members(t, admin, "log")
	assert.Equal(t, []string{"*", "w.1*7", "x.1=*2", "~"}, slices.Sorted(maps.Keys(left)))
	requireMarks(t, admin, "log")
}

// A server that takes no writes rejects a call before anything is written, and whatever the questions are. That its
// memory is full is no reason to deny what the limits admit.
func TestRejectedWrites(t *testing.T) {
	calls := []struct{ logs, args string }{
		{"A", "c1 one 1 3 m"}, {"full", "c2 one 1 1 m"}, {"A full", "c3 one 2 1 m"}, {"full A", "c4 one 2 1 m"},
		{"bad A", "c5 one 2 3 m"}, {"A", "c6 admit 1 1 2 2 0 4 m 0"}, {"full", "c7 admit 1 1 2 1 1 1 m 0"},
		{"A full", "c8 peek 2 1 1 m 0"}, {"full", "c9 settle 1 there.1 1 0 1 0 m"}, {"full", "c10 reset 1"},
		{"full full:probe", "c11 probe"}, {"old", "c12 one 1 3 1000"}, {"old", "c13 peek 1 1 3 1000 0"},
		{"A", "c14 again one 1 3 m"}, {"bad", "c15 one 1 3 m"}, {"A", "c16 settle 1 there.1 1 0 1 9 m"},
		{"full", "c17 renew 1 1 there.1 m"},
	}
	for _, refusal := range []struct{ code, on, off string }{
		{"READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"},
		{"NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"},
	} {
		t.Run(refusal.code, func(t *testing.T) {
			server := redistest.Start(t)
			client := server.Single(t)
			call := func(logs, args string) rueidis.RedisResult { return callOn(client, logs, args) }
			require.NoError(t, call("full", "there one 1 1 m").Error())
			require.NoError(t, call("old", "there one 1 1 m").Error())
			redistest.Do(t, client, "SET", "bad", "not a log")
			time.Sleep(2 * time.Millisecond) // so that what is in old has left a window of one
			before := dump(t, client, "full", "old", "bad", "A")
			redistest.Do(t, client, strings.Fields(refusal.on)...)
			for _, c := range calls {
				assert.ErrorContains(t, call(c.logs, c.args).Error(), refusal.code, "%+v", c)
			}
			redistest.Do(t, client, strings.Fields(refusal.off)...)
			assert.Equal(t, before, dump(t, client, "full", "old", "bad", "A"))
		})
	}
	t.Run("maxmemory", func(t *testing.T) {
		server := redistest.Start(t)
		client := server.Single(t)
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory", "1")
		set := client.B().Set().Key("x").Value("y").Build()
		require.ErrorContains(t, client.Do(context.Background(), set).Error(), "OOM")
		for _, row := range []struct{ logs, args, reply string }{
			{"A", "c1 one 1 3 m", "2"},
			{"B C B", "c2 one 2 3 m reset 1", "2 2 0"},
			{"D", "c3 admit 1 1 1 2 1 9 m 0", "7"},
			{"A D", "c4 again one 2 3 m", "1 [1 0 "},
			{"D", "c5 settle 1 c3.1 1 0 2 0 m", "2"},
			{"D", "c6 settle 1 c4.1 1 0 2 9 m", "7"},
			{"D D:probe", "c7 probe", "0"},
		} {
			reply, err := callOn(client, row.logs, row.args).ToArray()
			require.NoError(t, err, "%+v", row)
			assert.True(t, strings.HasPrefix(text(t, reply), row.reply), "%s of %+v", text(t, reply), row)
		}
	})
}

// dump returns what is in keys, and when they expire.
func dump(t *testing.T, client rueidis.Client, keys ...string) (all []string) {
	for _, key := range keys {
		value, err := redistest.Do(t, client, "DUMP", key).ToString()
		require.True(t, err == nil || rueidis.IsRedisNil(err))
		expires, err := redistest.Do(t, client, "PEXPIRETIME", key).AsInt64()
		require.NoError(t, err)
		all = append(all, fmt.Sprintf("%s: %q until %d", key, value, expires))
	}
	return all
}
