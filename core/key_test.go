package core

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// awkward keys: those that could be taken for another, leave their slot or break a protocol.
var awkward = []string{
	"a", "a}", "}", "{", "{}", "{a}", "}{", "a}b", "a%7Db", "a%257Db", "%", "%%", "%25", "%#", "%#a", ":", "::", "a:b",
	"a:b:1000", "a}:n:1000", "a}:n:1000v3", "a}:n", "\x00", "a\x00", "\n", "a\r\nb", " ", "  ", "ü", "\xff", "\xc3\x28",
	"*", "a*", "{a}:n:1000v3",
	strings.Repeat("k", maxKey), strings.Repeat("k", maxKey+1),
	strings.Repeat("k", 10_000), strings.Repeat("k", 9_999) + "}",
	strings.Repeat("}", maxKey), strings.Repeat("%", maxKey+1), canonicalKey(strings.Repeat("k", 10_000)),
}

func logName(key, name string, window time.Duration) string {
	return string(appendLogKey(nil, "p", canonicalKey(key), Limit{Name: name, Max: 1, Window: window}))
}

func TestLogNames(t *testing.T) {
	assert.Equal(t, "p:{ip:203.0.113.7}:search:10000v3", logName("ip:203.0.113.7", "search", 10*time.Second))
	assert.Equal(t, "p:{a%7D%25{:}:}:n:1v3", logName("a}%{:", "}:n", time.Millisecond))
	assert.Len(t, logName(strings.Repeat("k", 10_000), "n", time.Millisecond), len("p:{%#}:n:1v3")+43)

	seen := map[string]string{}
	for _, key := range awkward {
		for _, name := range []string{"n", "n:1000", "n:1000v3", "n:1000v3f", "v3", ":", "}:n", "{x}", "a}:n"} {
			for _, window := range []time.Duration{time.Millisecond, time.Second} {
				log, from := logName(key, name, window), fmt.Sprintf("%q %q %v", key, name, window)
				assert.NotContains(t, seen, log, "%s and %s", from, seen[log])
				seen[log] = from
			}
			log := string(appendLogKey(nil, "p", canonicalKey(key), InFlight(name, 1, time.Second)))
			assert.NotContains(t, seen, log, "%q %q in flight and %s", key, name, seen[log])
			seen[log] = fmt.Sprintf("%q %q in flight", key, name)
		}
	}
}

func FuzzLogNames(f *testing.F) {
	for i, key := range awkward {
		f.Add(key, "n", awkward[(i+1)%len(awkward)], "n:1")
	}
	f.Fuzz(func(t *testing.T, key1, name1, key2, name2 string) {
		log1, log2 := logName(key1, name1, time.Second), logName(key2, name2, time.Second)
		if (key1 == key2 && name1 == name2) != (log1 == log2) {
			t.Errorf("%q of %q is %q, %q of %q is %q", name1, key1, log1, name2, key2, log2)
		}
		if log1 == string(appendLogKey(nil, "p", canonicalKey(key2), InFlight(name2, 1, time.Second))) {
			t.Errorf("%q of %q is %q, and so is %q in flight of %q", name1, key1, log1, name2, key2)
		}
		// Redis Cluster hashes what stands between the first brace and the first closing one after it.
		tag := func(log string) string {
			_, rest, _ := strings.Cut(log, "{")
			tag, _, _ := strings.Cut(rest, "}")
			return tag
		}
		if key1 != "" && tag(log1) == "" {
			t.Errorf("%q has no hash tag", log1)
		}
		if tag(log1) != tag(logName(key1, name2, time.Minute)) {
			t.Errorf("logs of %q are not on one slot", key1)
		}
		if len(canonicalKey(key1)) > 3*maxKey {
			t.Errorf("%q is %d bytes long", canonicalKey(key1), len(canonicalKey(key1)))
		}
	})
}

// Every awkward key has a budget of its own, on a cluster, where several limits of one key must be on one slot.
func TestAwkwardKeys(t *testing.T) {
	cluster := connectTo(t, redistest.StartCluster(t, 3, 0).URL(), patient)
	local := newLocal(t)
	for _, limiter := range []*Limiter{cluster, local} {
		for round := range 2 {
			for _, key := range awkward {
				d, err := limiter.Allow(context.Background(), key, PerHour("one", 1), PerHour("}:{", 2),
					PerDay("three", 3))
				require.NoError(t, err, "%q", key)
				assert.Equal(t, round == 0, d.Allowed, "%q", key)
			}
		}
	}
}
