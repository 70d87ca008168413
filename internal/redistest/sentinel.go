package redistest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// SentinelSet is a master with replicas, which three sentinels watch. Two of them can decide on a failover.
type SentinelSet struct {
	Name      string
	Servers   []*Server // the first was master at the start
	Sentinels []*Server
}

// StartSentinelSet runs a set for one test, with further lines of configuration for its servers. A master that does not
// answer for half a second is failed over.
func StartSentinelSet(t testing.TB, name string, replicas int, config ...string) *SentinelSet {
	t.Helper()
	Long(t)
	set := &SentinelSet{Name: name, Servers: []*Server{Start(t, config...)}}
	for range replicas {
		set.Servers = append(set.Servers, StartReplica(t, set.Servers[0], config...))
	}
	for range 3 {
		set.Sentinels = append(set.Sentinels, startSentinel(t, name, set.Servers[0], 2,
			"sentinel down-after-milliseconds "+name+" 500", "sentinel failover-timeout "+name+" 3000"))
	}
	for _, s := range set.Sentinels {
		// These are a fifth of the defaults.
		_, err := s.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "2000", "PUBLISH-PERIOD", "400", "TILT-PERIOD", "1000")
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range set.Sentinels {
		s.await(t, 30*time.Second, "knows the others", func() bool {
			text, err := s.ask("SENTINEL", "MASTER", name)
			lines := strings.Split(text, "\n")
			is := func(field string, n int) bool {
				i := slices.Index(lines, field)
				return i >= 0 && i+1 < len(lines) && lines[i+1] == fmt.Sprint(n)
			}
			return err == nil && is("num-other-sentinels", len(set.Sentinels)-1) && is("num-slaves", replicas)
		})
	}
	return set
}

// StartSentinel runs a sentinel that watches a master under a name, with further lines of configuration. With the lines
// of TLS, clients speak TLS with the master.
func StartSentinel(t testing.TB, name string, master *Server, config ...string) *Server {
	t.Helper()
	Long(t)
	return startSentinel(t, name, master, 1, config...)
}

func startSentinel(t testing.TB, name string, master *Server, quorum int, config ...string) *Server {
	t.Helper()
	addr := master.Addr
	if speaksTLS(config) {
		addr = master.TLSAddr
	}
	host, port, _ := strings.Cut(addr, ":")
	monitor := fmt.Sprint("sentinel monitor ", name, " ", host, " ", port, " ", quorum)
	s := start(t, &Server{dir: t.TempDir(), sentinel: true}, append([]string{monitor}, config...))
	t.Cleanup(s.Kill)
	return s
}

// URL returns a URL for core.Connect that names every sentinel.
func (set *SentinelSet) URL() string { return url(set.Sentinels) + "&master_set=" + set.Name }

// Records returns the records of all servers.
func (set *SentinelSet) Records(t testing.TB) []Record {
	t.Helper()
	return records(t, set.Servers)
}

// Master returns the master, as soon as all sentinels agree on it.
func (set *SentinelSet) Master(t testing.TB) *Server {
	t.Helper()
	return set.AwaitMaster(t, nil)
}

// AwaitMaster waits until all sentinels agree on a master that is not the given server.
func (set *SentinelSet) AwaitMaster(t testing.TB, not *Server) *Server {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		agreed := map[string]int{}
		for _, sentinel := range set.Sentinels {
			addr, _ := sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", set.Name)
			agreed[strings.Replace(addr, "\n", ":", 1)]++
		}
		for _, s := range set.Servers {
			if s != not && agreed[s.Addr] == len(set.Sentinels) && s.Role() == "master" {
				return s
			}
		}
	}
	t.Fatalf("the sentinels agree on no master of %s", set.Name)
	return nil
}

// Failover has the sentinels replace the master in good order, and returns the new one once the old one follows it.
func (set *SentinelSet) Failover(t testing.TB) *Server {
	t.Helper()
	old := set.Master(t)
	// Sentinels refuse a failover during the previous one, and shortly after it.
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := set.Sentinels[0].ask("SENTINEL", "FAILOVER", set.Name)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	master := set.AwaitMaster(t, old)
	old.AwaitReplica(t)
	return master
}

// Hang pauses the master and returns the new one. Once resumed, the old one acts as a master until the sentinels
// reconfigure it, about two seconds later: see AwaitReplica.
func (set *SentinelSet) Hang(t testing.TB) *Server {
	t.Helper()
	old := set.Master(t)
	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	return set.AwaitMaster(t, old)
}
