package torture

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// soak is a run of TestSoak: processes of callers, one server behind a proxy, and a witness that reads what the server writes
// down.
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

// soakRow is what a fault came to, all its phases together.
type soakRow struct {
	fault      string
	phases     int
	took       time.Duration
	outcomes   Outcomes
	units      int
	fullest    redistest.Worst
	violations int
}

// soakFault disturbs a soak for some time. Callers are paused while prepare runs.
type soakFault struct {
	name    string
	prepare func(*soak)
	play    func(*soak, time.Duration)
}

var soakFaults = []soakFault{
	{name: "connections killed", play: func(s *soak, d time.Duration) {
		s.watch(d, func() { s.do("CLIENT KILL TYPE normal SKIPME yes") })
	}},
	{name: "scripts flushed", play: func(s *soak, d time.Duration) { s.watch(d, func() { s.do("SCRIPT FLUSH") }) }},
	{name: "requests lost", play: struck(Faults{Command: "EVALSHA", LoseRequest: 0.02})},
	{name: "replies lost", play: struck(Faults{Command: "EVALSHA", LoseReply: 0.02})},
	{name: "connections reset", play: struck(Faults{Command: "EVALSHA", Reset: 0.02})},
	{name: "replies after the timeout", play: struck(Faults{Command: "EVALSHA", DelayReply: 0.01, Delay: 150 * ms})},
	{name: "slow network", play: struck(Faults{Command: "EVALSHA", DelayReply: 1, Delay: 5 * ms})},
	{name: "network cut", play: func(s *soak, d time.Duration) {
		s.proxy.Hold()
		s.watch(d/2, nil)
		s.heal()
		s.proxy.Refuse()
		s.proxy.Cut()
		s.watch(d/4, nil)
		s.heal()
	}},
	{name: "Redis killed and restarted", play: func(s *soak, d time.Duration) {
		s.server.Kill()
		s.watch(min(d/4, 500*ms), nil)
		if err := s.server.Start(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/2, nil)
	}},
	{name: "Redis stopped", play: func(s *soak, d time.Duration) {
		if err := s.server.Pause(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/2, nil)
		if err := s.server.Resume(); err != nil {
			s.Fatal(err)
		}
		s.watch(d/4, nil)
	}},
	{name: "clock stepped forward", prepare: func(s *soak) { s.step(1) }, play: calm},
	{name: "clock stepped back", prepare: func(s *soak) { s.step(-1) }, play: calm},
}

func calm(s *soak, d time.Duration) { s.watch(d, nil) }

func struck(f Faults) func(*soak, time.Duration) {
	return func(s *soak, d time.Duration) {
		s.proxy.Strike(f)
		s.watch(d, nil)
		s.heal()
	}
}

func (s *soak) heal() {
	if err := s.proxy.Heal(); err != nil {
		s.Fatal(err)
	}
}

// step steps the server's clock, forward or back, by up to three seconds, which is more than any window, and often by little.
func (s *soak) step(sign time.Duration) {
	by := time.Duration(s.random.Int64N(int64(s.random.Int64N(int64(3*time.Second))) + 1)).Truncate(time.Microsecond)
	s.server.StepClock(s, sign*by)
	if sign < 0 {
		s.witness.StepBack(by)
	}
}

// do sends the server a command and returns the reply.
func (s *soak) do(command string) string {
	conn, err := net.Dial("tcp", s.server.Addr)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s\r\n", command)
	reply, err := readValue(bufio.NewReader(conn))
	if err != nil || reply[0] == '-' {
		s.Fatalf("%s: %s %v", command, reply, err)
	}
	return string(reply)
}

// watch has the witness read along for some time, and does something meanwhile, again and again.
func (s *soak) watch(d time.Duration, do func()) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(20*ms, time.Until(end))) {
		if do != nil {
			do()
		}
		s.read()
	}
}

func (s *soak) read() {
	err := s.follower.Read(func(transaction [][][]byte) error {
		s.transactions++
		return s.witness.Apply(transaction)
	})
	if err != nil {
		s.violated("%v", err)
	}
}

// violated ends the soak.
func (s *soak) violated(format string, args ...any) {
	s.playing.violations++
	s.Fatalf(format, args...)
}

// play is a phase: the callers ask, something disturbs them, they recover, and they are paused. Then what they know must be
// what the server has written down.
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
	if fullest := s.witness.Worst(); fullest.Max > 0 && fullest.Fuller(row.fullest) {
		row.fullest = fullest
	}
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
		if time.Since(begun) > 10*time.Second {
			s.violated("nothing disturbs Redis any more, and it was asked for nothing since")
		}
	}
}

// row returns the row of a fault.
func (s *soak) row(fault string) *soakRow {
	i := slices.IndexFunc(s.rows, func(row *soakRow) bool { return row.fault == fault })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, &soakRow{fault: fault})
	}
	return s.rows[i]
}

// pause returns when no call is under way any more.
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

// settle reads until nothing more comes: what was under way without a caller.
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

// compare checks what callers know of this phase against what was written down, and returns the units that were admitted.
func (s *soak) compare(tally Tally) (admitted int) {
	for u, use := range s.uses {
		for k := range use.Keys {
			told, before := tally.Units[u][k], s.tally.Units[u][k]
			asked, unknown := int(told.Told-before.Told), int(told.Unknown-before.Unknown)
			for i, limit := range use.Limits {
				totals := s.witness.Totals(s.log(use, k, limit))
				recorded := totals.Admitted - s.totals[u][k][i].Admitted
				s.totals[u][k][i] = totals
				if i == 0 {
					admitted += recorded
				}
				switch {
				case recorded < asked:
					s.violated("%s: callers were told of %d units, and the server recorded %d", s.log(use, k, limit), asked, recorded)
				case recorded > asked+unknown:
					s.violated("%s: the server recorded %d units; callers were told of %d and do not know of %d",
						s.log(use, k, limit), recorded, asked, unknown)
				case totals.Admitted != s.totals[u][k][0].Admitted:
					s.violated("%s: %d units were charged to this limit, and %d to the call's first",
						s.log(use, k, limit), totals.Admitted, s.totals[u][k][0].Admitted)
				case totals.Returned > int(told.Returned+told.Unknown) || totals.Returned < int(told.Surely):
					s.violated("%s: %d units were given back, but callers gave back at least %d and at most %d, and do not know of %d",
						s.log(use, k, limit), totals.Returned, told.Surely, told.Returned, told.Unknown)
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

// bound notes how much memory and disk this takes, and rewrites the server's file if it has grown large.
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

// soakUses are hot keys, of which many calls are batches for one entry; keys under two limits with requests of different
// costs; keys of which much is given back; a key whose log is always full and asked for all the while, so that requests meet
// the very moment at which a window ends; and many keys with little room.
var soakUses = []Use{
	{Name: "hot", Share: 900, Keys: 2, Limits: []core.Limit{{Name: "hot", Max: 150_000, Window: time.Second}}, Costs: []int{1}},
	{Name: "costs", Share: 25, Keys: 8, Costs: []int{1, 1, 5, 100, 400}, Limits: []core.Limit{
		{Name: "burst", Max: 2000, Window: 100 * ms}, {Name: "sustained", Max: 10_000, Window: 2 * time.Second},
	}},
	{Name: "returned", Share: 25, Keys: 4, Limits: []core.Limit{{Name: "returned", Max: 100, Window: 250 * ms}},
		Costs: []int{1, 2, 3}, Returned: 0.4},
	{Name: "full", Share: 25, Keys: 1, Limits: []core.Limit{{Name: "full", Max: 20, Window: 20 * ms}}, Costs: []int{1},
		Returned: 0.05},
	{Name: "many", Share: 25, Keys: 200, Limits: []core.Limit{{Name: "many", Max: 3, Window: 300 * ms}}, Costs: []int{1}},
}

// TestSoak makes decisions for as long as -soak says, while one fault after another disturbs them, with calm between. All
// that the server records is checked as it is written. The first violation ends it, with the record of the window.
func TestSoak(t *testing.T) {
	redistest.Long(t)
	if deadline, is := t.Deadline(); is && *soakTime > time.Minute && time.Until(deadline) < *soakTime+time.Minute {
		t.Fatal("the tests would be killed before the soak is over: add -timeout 0")
	}
	played := *seed
	if played == 0 {
		played = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("play it again with -seed %d", played)
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
		for k := range use.Keys {
			s.totals[u][k] = make([]redistest.Totals, len(use.Limits))
			for _, limit := range use.Limits {
				bounds[s.log(use, k, limit)] = redistest.Bound{Max: limit.Max, Window: limit.Window}
			}
		}
	}
	s.witness = redistest.NewWitness(bounds)
	load := Callers{URL: s.proxy.URL(), Prefix: s.prefix, Goroutines: 256, Uses: s.uses, Pause: 2 * ms, Seed: played}
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

// about returns a time between half of d and one and a half.
func (s *soak) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(s.random.Int64N(int64(d)))
}

func (s *soak) summary(took time.Duration) string {
	const mb = 1 << 20
	n := s.tally.Outcomes.decided()
	return fmt.Sprintf("%v: %d decisions, %.0f a second; %d transactions read; at most %d MB of heap here and %d MB of callers, "+
		"%d MB of Redis, %d MB of files", took.Round(time.Second), n, float64(n)/took.Seconds(), s.transactions,
		s.heap/mb, s.theirs/mb, s.redis/mb, s.files/mb)
}

// table prints the rows as Markdown that can be read as it is.
func (s *soak) table(took time.Duration) string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	fmt.Fprint(out, "| fault\t| phases\t| time\t| decisions\t| admitted\t| denied\t| denied by the cache\t| in-process\t| undecided")
	fmt.Fprint(out, "\t| units\t| fullest window\t| violations\t|\n|---\t"+strings.Repeat("|--:\t", 11)+"|\n")
	all := soakRow{fault: "all"}
	for _, row := range s.rows {
		all.phases += row.phases
		all.took += row.took
		all.outcomes.add(row.outcomes)
		all.units += row.units
		if row.fullest.Max > 0 && row.fullest.Fuller(all.fullest) {
			all.fullest = row.fullest
		}
		all.violations += row.violations
	}
	for _, r := range append(s.rows, &all) {
		if r.phases+r.violations == 0 {
			continue
		}
		fmt.Fprintf(out, "| %s\t| %d\t| %v\t| %d\t| %d\t| %d\t| %d\t| %d\t| %d\t| %d\t| %d of %d\t| %d\t|\n",
			r.fault, r.phases, r.took.Round(100*ms), r.outcomes.decided(), r.outcomes[Admitted], r.outcomes[Denied],
			r.outcomes[Cached], r.outcomes[InProcess], r.outcomes[Undecided], r.units, r.fullest.Units, r.fullest.Max, r.violations)
	}
	out.Flush()
	return text.String() + s.summary(took) + "\n"
}
