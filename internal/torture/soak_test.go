package torture

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// soak is a run of TestSoak: processes of callers, a server behind a proxy, and a witness that reads what the server
// records.
type soak struct {
	*testing.T
	random   *rand.Rand
	server   *redistest.Server
	proxy    *Proxy
	follower *redistest.Follower
	witness  *redistest.Witness
	prefix   string
	uses     []Use
	callers  []*callers

	// At the end of the last phase:
	tally  Tally
	totals [][][]redistest.Totals // of each use, key and limit
	late   [][]int                // of each use and key: units that callers do not know of and that were not recorded

	transactions int   // that the witness has read
	rewriteAt    int64 // bytes of the server's files
	rows         []*soakRow
	playing      *soakRow

	// The most bytes at the end of a phase:
	heap   uint64 // of this process
	theirs uint64 // of all callers
	redis  uint64
	files  int64 // of the server, also while they are rewritten
}

// do sends the server a command and returns the reply.
func (s *soak) do(command string) string {
	conn, err := net.Dial("tcp", s.server.Addr)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "%s\r\n", command)
	reply, err := redistest.ReadValue(bufio.NewReader(conn))
	if err != nil || reply[0] == '-' {
		s.Fatalf("%s: %s %v", command, reply, err)
	}
	return string(reply)
}

// watch reads what the server records for some time, and calls do again and again meanwhile.
func (s *soak) watch(d time.Duration, do func()) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(20*ms, time.Until(end))) {
		if do != nil {
			do()
		}
		s.read()
	}
}

// read has the witness check what the server has recorded since the last call.
func (s *soak) read() {
	err := s.follower.Read(func(transaction [][][]byte) error {
		s.transactions++
		return s.witness.Apply(transaction)
	})
	if err != nil {
		s.violated("%v", err)
	}
}

// violated ends the soak because of a violation.
func (s *soak) violated(format string, args ...any) {
	s.playing.violations++
	s.Fatalf(format, args...)
}

// play runs a phase: the callers make calls during a fault, recover, and are paused. Then what they know must be what
// the server has recorded.
func (s *soak) play(fault soakFault, d time.Duration) {
	row := s.row(fault.name)
	s.playing = row
	if fault.prepare != nil {
		fault.prepare(s)
	}
	begun := time.Now()
	for _, callers := range s.callers {
		if err := callers.resume(); err != nil {
			s.Fatal(err)
		}
	}
	fault.play(s, d)
	s.recover(min(d/4, time.Second))
	tally := s.pause()
	took := time.Since(begun)
	s.settle()

	row.phases++
	row.took += took
	outcomes := tally.Outcomes.since(s.tally.Outcomes)
	row.outcomes.add(outcomes)
	row.see(s.witness.Worst())
	for _, violation := range tally.Violations {
		s.violated("%s", violation)
	}
	row.units += s.compare(tally)
	s.bound()
}

// recover watches for some time, and until Redis admits again.
func (s *soak) recover(d time.Duration) {
	before := s.transactions
	s.watch(d, nil)
	for begun := time.Now(); s.transactions == before; s.watch(100*ms, nil) {
		if time.Since(begun) > time.Minute {
			s.violated("the fault has ended, and no call has changed anything in Redis since")
		}
	}
}

// pause waits until no call is in flight, and returns what the callers have counted.
func (s *soak) pause() Tally {
	tallies, errs := make([]Tally, len(s.callers)), make([]error, len(s.callers))
	var all sync.WaitGroup
	for i, callers := range s.callers {
		all.Go(func() { tallies[i], errs[i] = callers.pause() })
	}
	all.Wait()
	sum := newTally(s.uses)
	for i, tally := range tallies {
		if errs[i] != nil {
			s.Fatal(errs[i])
		}
		sum.add(tally)
	}
	return sum
}

// settle reads until the server records nothing more, since calls may be in flight whose callers no longer wait.
func (s *soak) settle() {
	for quiet := 0; quiet < 3; {
		before := s.transactions
		s.read()
		if quiet++; s.transactions > before {
			quiet = 0
		}
		time.Sleep(20 * ms)
	}
}

// compare compares what callers know of this phase with what was recorded, and returns the units that were admitted. A
// call that its caller has given up may be executed in the next phase, if the machine is so busy that settle does not
// see it.
func (s *soak) compare(tally Tally) (admitted int) {
	for u, use := range s.uses {
		for k := range use.Keys {
			told, before := tally.Units[u][k], s.tally.Units[u][k]
			asked, unknown := int(told.Told-before.Told), int(told.Unknown-before.Unknown)
			late := s.late[u][k]
			for i, limit := range use.Limits {
				log := s.log(use, k, limit)
				totals := s.witness.Totals(log)
				recorded := totals.Admitted - s.totals[u][k][i].Admitted
				s.totals[u][k][i] = totals
				if i == 0 {
					admitted += recorded
					s.late[u][k] = max(0, min(unknown, asked+unknown-recorded))
				}
				first := s.totals[u][k][0].Admitted
				switch {
				case recorded < asked:
					s.violated("%s: callers were told of %d units, and the server recorded %d", log, asked, recorded)
				case recorded > asked+unknown+late:
					s.violated("%s: the server recorded %d units; callers were told of %d and do not know of %d, "+
						"and of %d in the phase before", log, recorded, asked, unknown, late)
				case totals.Admitted != first:
					s.violated("%s: %d units were charged, and %d to the first limit", log, totals.Admitted, first)
				case totals.Returned > int(told.Returned+told.Unknown) || totals.Returned < int(told.Surely):
					s.violated("%s: %d units were given back; callers gave back from %d to %d, and do not know of %d",
						log, totals.Returned, told.Surely, told.Returned, told.Unknown)
				case totals.Added > int(told.Added) || totals.Added < int(told.Owed):
					s.violated("%s: %d units were charged later; callers settled from %d to %d more",
						log, totals.Added, told.Owed, told.Added)
				}
			}
		}
	}
	s.tally = tally
	return admitted
}

func (s *soak) log(use Use, key int, limit core.Limit) string {
	return Load{Prefix: s.prefix}.logOf(use.key(key), limit)
}

// bound measures the use of memory and disk, and rewrites the server's file if it is large.
func (s *soak) bound() {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.heap, s.theirs = max(s.heap, memory.HeapSys), max(s.theirs, s.tally.Heap)
	_, used, _ := strings.Cut(s.do("INFO memory"), "used_memory_peak:")
	used, _, _ = strings.Cut(used, "\r")
	peak, err := strconv.ParseUint(used, 10, 64)
	if err != nil {
		s.Fatal(err)
	}
	s.redis = max(s.redis, peak)
	if s.size() < s.rewriteAt {
		return
	}
	s.do("BGREWRITEAOF")
	for {
		time.Sleep(10 * ms)
		s.read()
		s.size()
		info := s.do("INFO persistence")
		if strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0") {
			if !strings.Contains(info, "aof_last_bgrewrite_status:ok") {
				s.Fatal(info)
			}
			return
		}
	}
}

func (s *soak) size() int64 {
	size, err := s.follower.Size()
	if err != nil {
		s.Fatal(err)
	}
	s.files = max(s.files, size)
	return size
}

// soakUses are hot keys, whose requests share entries; keys under two limits with requests of different costs; keys
// whose requests are often settled; a key whose log is always full, so that requests meet the very microsecond at which
// an entry expires, and one whose log is full on a busy machine, too; many keys with little room; and keys that are
// banned. As in scene.lengthen, the windows are longer than it takes to send a call again on a busy machine.
var soakUses = []Use{
	{
		Name: "hot", Share: 940, Keys: 2, Costs: []int{1},
		Limits: []core.Limit{{Name: "hot", Max: 150_000, Window: time.Second}},
	},
	{
		Name: "costs", Share: 12, Keys: 8, Costs: []int{1, 1, 5, 100, 400},
		Limits: []core.Limit{
			{Name: "burst", Max: 5000, Window: 500 * ms}, {Name: "sustained", Max: 10_000, Window: 2 * time.Second},
		},
	},
	{
		Name: "returned", Share: 12, Keys: 4, Costs: []int{1, 2, 3}, Returned: 0.4, Settled: true,
		Limits: []core.Limit{{Name: "returned", Max: 200, Window: 500 * ms}},
	},
	{
		Name: "full", Share: 12, Keys: 1, Costs: []int{1}, Returned: 0.05,
		Limits: []core.Limit{{Name: "full", Max: 400, Window: 500 * ms}},
	},
	{
		Name: "small", Share: 24, Keys: 1, Costs: []int{1}, Returned: 0.05,
		Limits: []core.Limit{{Name: "small", Max: 5, Window: 500 * ms}},
	},
	{
		Name: "many", Share: 12, Keys: 200, Costs: []int{1},
		Limits: []core.Limit{{Name: "many", Max: 5, Window: 500 * ms}},
	},
	{
		Name: "banned", Share: 12, Keys: 20, Costs: []int{1},
		Limits: []core.Limit{{Name: "banned", Max: 20, Window: 500 * ms, Ban: 300 * ms}},
	},
}

// TestSoak makes decisions for as long as -soak says, during one fault after another, with phases without a fault
// between them. Everything that the server records is checked while it is written. The first violation ends the test,
// which prints the record of the window.
func TestSoak(t *testing.T) {
	redistest.Long(t)
	if deadline, is := t.Deadline(); is && *soakTime > time.Minute && time.Until(deadline) < *soakTime+time.Minute {
		t.Fatal("the tests would be killed before the soak is over: add -timeout 0")
	}
	played := *seed
	if played == 0 {
		played = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("repeat it with -seed %d", played)
	server := redistest.StartWithClock(t, redistest.Followed...)
	s := &soak{
		T: t, random: rand.New(rand.NewPCG(played, 0)), server: server, proxy: NewProxy(t, server.Addr, played),
		follower: server.Follow(), prefix: "soak", uses: soakUses, tally: newTally(soakUses),
		rewriteAt: 32 << 20,
	}
	if *soakTime < time.Minute {
		s.rewriteAt = 1 << 18
	}
	defer s.follower.Close()
	bounds := map[string]redistest.Bound{}
	for u, use := range s.uses {
		s.totals = append(s.totals, make([][]redistest.Totals, use.Keys))
		s.late = append(s.late, make([]int, use.Keys))
		for k := range use.Keys {
			s.totals[u][k] = make([]redistest.Totals, len(use.Limits))
			for _, limit := range use.Limits {
				bounds[s.log(use, k, limit)] = redistest.Bound{Max: limit.Max, Window: limit.Window}
			}
		}
	}
	s.witness = redistest.NewWitness(bounds)
	load := Callers{
		URL: s.proxy.URL(), Prefix: s.prefix, Goroutines: 512, Uses: s.uses, Pause: ms, Seed: played,
		Bug: plantedBug(t),
	}
	other := load
	other.Policy, other.Provisional, other.Seed = core.FailClosed, true, played+1
	s.callers = []*callers{load.start(t), other.start(t)}

	begun, reported := time.Now(), time.Now()
	defer func() { t.Log("\n" + s.table(time.Since(begun))) }()
	s.row("none")
	for _, fault := range soakFaults {
		s.row(fault.name)
	}
	length := min(max(*soakTime/40, 100*ms), 4*time.Second)
	for time.Since(begun) < *soakTime {
		for _, i := range s.random.Perm(len(soakFaults)) {
			s.play(soakFault{name: "none", play: calm}, s.about(length))
			s.play(soakFaults[i], s.about(length))
			if time.Since(reported) > time.Minute {
				reported = time.Now()
				t.Log(s.summary(time.Since(begun)))
			}
			if time.Since(begun) > *soakTime {
				break
			}
		}
	}
}

// about returns a random time between half of d and one and a half times d.
func (s *soak) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(s.random.Int64N(int64(d)))
}
