package core

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Row 18 of "What got through": a Redis that rejects calls is reported, by the code alone, and decides again when the cause is
// removed. An outage just after it is reported too.
func TestRejections(t *testing.T) {
	for code, row := range map[string]struct {
		config        []string
		cause, remove func(t *testing.T, admin rueidis.Client, dir string)
	}{
		"NOPERM": {
			nil,
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "ACL", "SETUSER", "default", "-zadd")
			},
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "ACL", "SETUSER", "default", "+zadd")
			},
		},
		"NOREPLICAS": {
			nil,
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "CONFIG", "SET", "min-replicas-to-write", "1")
			},
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "CONFIG", "SET", "min-replicas-to-write", "0")
			},
		},
		"READONLY": {
			nil,
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "REPLICAOF", "127.0.0.1", fmt.Sprint(redistest.FreePort(t)))
			},
			func(t *testing.T, admin rueidis.Client, _ string) { redistest.Do(t, admin, "REPLICAOF", "NO", "ONE") },
		},
		"MISCONF": {
			[]string{"save 3600 1"},
			func(t *testing.T, admin rueidis.Client, dir string) { // it cannot save, so it takes no writes
				require.NoError(t, os.Remove(dir))
				redistest.Do(t, admin, "BGSAVE")
			},
			func(t *testing.T, admin rueidis.Client, _ string) {
				redistest.Do(t, admin, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
			},
		},
	} {
		t.Run(code, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.Mkdir(dir, 0o700))
			server := redistest.Start(t, append(row.config, "dir "+dir)...)
			admin := server.Client(t)
			said := &record{}
			limiter, err := Connect(server.URL(), WithTimeout(time.Second), WithLogger(slog.New(slog.NewTextHandler(said, nil))))
			require.NoError(t, err)
			defer limiter.Close()
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
			row.cause(t, admin, dir)
			until(SourceInProcess)
			row.remove(t, admin, dir)
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
	limiter, err := New(client, WithPrefix(prefix), patient, WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
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
	limiter, err := Connect(server.URL(), patient, WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	admin := server.Client(t)
	redistest.Do(t, admin, "CONFIG", "SET", "maxmemory", "1mb")
	err = admin.Do(context.Background(), admin.B().Set().Key("other").Value("data").Build()).Error()
	require.ErrorContains(t, err, "OOM")
	for i := range 5 {
		d, err := limiter.Allow(context.Background(), "ann", PerHour("a", 3), PerDay("b", 9))
		require.NoError(t, err)
		assert.Contains(t, []Source{SourceRedis, SourceDenialCache}, d.Source)
		assert.Equal(t, i < 3, d.Allowed)
	}
	assert.Empty(t, said.all())
}

// Row 18 of "What got through": behind one address another server becomes the master, and connections to the old one stay.
// They are dropped, the new master is found, and as every request is decided by Redis there is nothing to report.
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
			limiter, err := connect(t, address.Addr, WithTimeout(20*time.Second), WithLogger(slog.New(slog.NewTextHandler(said, nil))))
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
					last, err := redistest.Do(t, admin, "ZCARD", string(appendLogKey(nil, "exactlimit", "dan", limit))).AsInt64()
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
