package core

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// The rights that the README asks for are enough for everything, on one server in any database, by Sentinel and on a
// cluster, and without any of them something fails.
func TestReadmeRights(t *testing.T) {
	redistest.Long(t)
	rights := readmeRights(t)
	for _, command := range regexp.MustCompile(`call\('([A-Z]+)'`).FindAllStringSubmatch(lua.Decide, -1) {
		assert.Contains(t, rights, "+"+strings.ToLower(command[1]))
	}

	server, master, cluster := redistest.Start(t), redistest.Start(t), redistest.StartCluster(t, 2, 0)
	url := server.URL()
	bySentinel := redistest.StartSentinel(t, "shop", master).URL() + "?master_set=shop"
	servers := append([]*redistest.Server{server, master}, cluster.Masters...)
	everywhere := func(words ...string) {
		for _, s := range servers {
			require.NoError(t, redistest.Do(t, s.Single(t), words...).Error())
		}
	}
	grant := func(rights []string) {
		everywhere(append([]string{"ACL", "SETUSER", "limiter", "reset", "on", ">password"}, rights...)...)
	}
	connect := func(url string) *Limiter {
		url = strings.Replace(url, "redis://", "redis://limiter:password@", 1)
		limiter, err := Connect(url, patient, OnFailure(FailClosed))
		require.NoError(t, err)
		return limiter
	}
	use := func(url string) error {
		limiter := connect(url)
		defer limiter.Close()
		return useAll(limiter, func() { everywhere("SCRIPT", "FLUSH") })
	}
	grant(rights)
	for _, url := range []string{url, url + "/3", bySentinel, cluster.URL()} {
		assert.NoError(t, use(url), url)
	}

	for _, right := range rights {
		where, alternative := url, ""
		switch right {
		case "resetchannels", "-@all":
			continue // takes rights away
		case "+ping", "+cluster|shards":
			continue // a refused ping is an answer, too; the other is below
		case "+script|load", "+asking":
			continue // below
		case "+select":
			where += "/3"
		case "+role":
			where = bySentinel
		case "+cluster|slots":
			where, alternative = cluster.URL(), "+cluster|shards" // which servers from version 8 on are asked for
		}
		t.Run("without "+right, func(t *testing.T) {
			grant(slices.DeleteFunc(slices.Clone(rights),
				func(r string) bool { return r == right || r == alternative }))
			assert.ErrorIs(t, use(where), ErrUnavailable)
		})
	}

	without := func(right string) []string {
		require.Contains(t, rights, right)
		return slices.DeleteFunc(slices.Clone(rights), func(r string) bool { return r == right })
	}
	t.Run("without +script|load", func(t *testing.T) { // so that no request has to send the script
		for i, rights := range [][]string{without("+script|load"), rights} {
			grant(rights)
			everywhere("SCRIPT", "FLUSH")
			require.NoError(t, connect(url).Close()) // which waits until it is prepared
			loaded, err := redistest.Do(t, server.Single(t), "SCRIPT", "EXISTS", sha(lua.Decide)).AsIntSlice()
			require.NoError(t, err)
			assert.Equal(t, []int64{int64(i)}, loaded)
		}
	})
	t.Run("without +asking", func(t *testing.T) { // while a slot moves
		slot := cluster.Slot(t, "{ann}")
		from := cluster.MasterOfSlot(t, slot)
		to := cluster.Masters[(slices.Index(cluster.Masters, from)+1)%2]
		id := func(s *redistest.Server) string {
			id, err := redistest.Do(t, s.Single(t), "CLUSTER", "MYID").ToString()
			require.NoError(t, err)
			return id
		}
		redistest.Do(t, to.Single(t), "CLUSTER", "SETSLOT", fmt.Sprint(slot), "IMPORTING", id(from))
		redistest.Do(t, from.Single(t), "CLUSTER", "SETSLOT", fmt.Sprint(slot), "MIGRATING", id(to))
		for _, right := range []string{"none", "+asking"} {
			grant(slices.DeleteFunc(slices.Clone(rights), func(r string) bool { return r == right }))
			limiter := connect(cluster.URL())
			_, err := limiter.Allow(context.Background(), "ann", PerMinute("one", 1))
			if right == "none" {
				assert.NoError(t, err)
			} else {
				assert.ErrorIs(t, err, ErrUnavailable)
			}
			require.NoError(t, limiter.Close())
		}
	})
}

// They are enough with TLS, too, and where the sentinels have users of their own. Nothing but INFO is refused, which
// the README leaves to its reader: ACL LOG would tell of it.
func TestReadmeRightsWithTLS(t *testing.T) {
	redistest.Long(t)
	rights := readmeRights(t)
	config, trusted := redistest.TLS(t)
	master, cluster := redistest.Start(t, config...), redistest.StartCluster(t, 2, 0, config...)
	sentinel := redistest.StartSentinel(t, "shop", master, slices.Concat(config, []string{
		"requirepass secret", "user limiter on >sentinels " + readme(t, "user limiter on >password ")[0],
	})...)
	servers := append([]*redistest.Server{master}, cluster.Masters...)
	everywhere := func(words ...string) (results []rueidis.RedisResult) {
		for _, s := range servers {
			results = append(results, redistest.Do(t, s.Single(t), words...))
		}
		return results
	}
	everywhere(append([]string{"ACL", "SETUSER", "limiter", "reset", "on", ">password"}, rights...)...)

	connect := func(addr, user, password string) (rueidis.Client, error) {
		option, err := ClientOption("rediss://limiter:password@" + addr)
		require.NoError(t, err)
		option.TLSConfig.RootCAs = trusted.RootCAs
		option.Sentinel.Username, option.Sentinel.Password = user, password
		return rueidis.NewClient(option)
	}
	bySentinel := sentinel.TLSAddr + "?master_set=shop"
	for _, addr := range []string{master.TLSAddr, bySentinel, cluster.Masters[0].TLSAddr} {
		client, err := connect(addr, "limiter", "sentinels")
		require.NoError(t, err, addr)
		limiter, err := New(client, patient, OnFailure(FailClosed))
		require.NoError(t, err)
		assert.NoError(t, useAll(limiter, func() { everywhere("SCRIPT", "FLUSH") }), addr)
		require.NoError(t, limiter.Close())
		client.Close()
	}
	_, err := connect(bySentinel, "", "")
	assert.ErrorContains(t, err, "NOAUTH")

	own, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{sentinel.Addr}, Password: "secret", ForceSingleClient: true, DisableCache: true,
	})
	require.NoError(t, err)
	defer own.Close()
	for _, log := range append(everywhere("ACL", "LOG"), redistest.Do(t, own, "ACL", "LOG")) {
		entries, err := log.ToArray()
		require.NoError(t, err)
		for _, entry := range entries {
			fields, err := entry.AsMap()
			require.NoError(t, err)
			object := fields["object"]
			refused, err := object.ToString()
			require.NoError(t, err)
			assert.Equal(t, "info", refused)
		}
	}
}

// readmeRights returns the rights that the commands of the README grant, without the password.
func readmeRights(t *testing.T) []string {
	t.Helper()
	rights := strings.Fields(strings.Join(readme(t, "ACL SETUSER limiter "), " "))
	require.Equal(t, []string{"on", ">password"}, rights[:2])
	return rights[2:]
}

// readme returns the rest of each line of the README that begins with a text.
func readme(t *testing.T, begin string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	rest := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(begin) + "(.*)$")
	for _, line := range rest.FindAllStringSubmatch(string(text), -1) {
		lines = append(lines, line[1])
	}
	require.NotEmpty(t, lines, begin)
	return lines
}

// useAll does everything that a Limiter on Redis can do, and returns the first error that is not a decision.
func useAll(limiter *Limiter, forgetScripts func()) error {
	ctx, one, two := context.Background(), PerMinute("one", 1), PerMinute("two", 99)
	for range 3 { // admitted, then denied; of which one at most finds the script that Connect has loaded meanwhile
		forgetScripts()
		if _, err := limiter.Allow(ctx, "ann", one, two); err != nil {
			return err
		}
	}
	var admitted [2]Decision
	for i := range admitted {
		var err error
		if admitted[i], err = limiter.Provisional().AllowN(ctx, "ann", 3, two); err != nil {
			return err
		}
	}
	if _, err := limiter.Peek(ctx, "ann", one, two); err != nil {
		return err
	}
	for i, cost := range []int{0, 5} {
		if err := limiter.Settle(ctx, admitted[i], cost); err != nil {
			return err
		}
	}
	if err := limiter.Reset(ctx, "ann", one, two); err != nil {
		return err
	}
	client, err := limiter.redis.connection.get()
	if err != nil {
		return unavailable(err)
	}
	const log = "exactlimit:{probe}"
	if err := probe(ctx, client, log, log+":probe"); err != nil {
		return unavailable(err)
	}
	return nil
}

// probe asks the script what the circuit breaker asks it.
func probe(ctx context.Context, client rueidis.Client, keys ...string) error {
	call := client.B().Eval().Script(lua.Decide).Numkeys(int64(len(keys))).Key(keys...).Arg("probe", "probe").Build()
	replies, err := client.Do(ctx, call).ToArray()
	if err != nil {
		return err
	}
	_, err = replies[0].AsInt64()
	return err
}
