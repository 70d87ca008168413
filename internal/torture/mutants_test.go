package torture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// mutant is this limiter with one mistake.
type mutant struct {
	name, file, right, wrong string
	fault                    string // that shows it
	says                     string
	always                   bool // and not only with -long, since each takes about ten seconds
}

// A suite that finds nothing may be blind. These mistakes it has to find, and say. Those that run always are one for
// each of the rules: ids, windows, retries, batches, settlements, bans and leases.
var mutants = []mutant{
	{
		always: true, name: "ids are timestamps", file: "core/redis.go",
		right: "text = strconv.AppendUint(append(text, r.idPrefix...), r.lastID.Add(1), 36)",
		wrong: "text = strconv.AppendInt(text, time.Now().UnixMicro(), 10)",
		fault: "none", says: "an id added twice",
	},
	{
		always: true, name: "a retry is counted twice", file: "lua/decide.lua",
		right: "local known, banned = granted(g, at, entry), false",
		wrong: "local known, banned = 0, false",
		fault: "replies_lost", says: "an id added twice",
	},
	{
		name: "a retry is counted twice, under another id", file: "core/batch.go",
		right: `b.args[0], b.args[1] = b.call.id, word`,
		wrong: `b.args[0], b.args[1] = b.call.id+"x", word`,
		fault: "replies_lost", says: "the servers recorded",
	},
	{
		name: "a retry is not counted at all", file: "lua/decide.lua",
		right: "local known, banned = granted(g, at, entry), false",
		wrong: "local known, banned = again and g.charges and grants or 0, false",
		fault: "requests_lost", says: "callers were told of",
	},
	{
		name: "a question of a failed batch is both charged and denied", file: "lua/decide.lua",
		right: "grants, charge = known, 0",
		wrong: "grants, charge = known - 1, 0",
		fault: "replies_lost", says: "the servers recorded",
	},
	{
		always: true, name: "an overcharge is forgotten", file: "lua/decide.lua",
		right: "for i = 1, more > 0 and g.logs or 0 do",
		wrong: "for i = 1, 0 do",
		fault: "replies_lost,_of_calls_that_cost_more", says: "callers were told that calls have cost",
	},
	{
		name: "a settle is charged twice", file: "lua/decide.lua",
		right: "return 0 -- this was done before",
		wrong: "members[i] = 0",
		fault: "replies_lost,_of_calls_that_cost_more", says: "an id added twice",
	},
	{
		always: true, name: "a batch's answers are shifted by one", file: "core/batch.go",
		right: "decode(reply[n], a.requests, a.question)",
		wrong: "decode(reply[(n+1)%len(reply)], a.requests, a.question)",
		fault: "none,_several_limits", says: "while there was room",
	},
	{
		name: "a weight is lost in cleaning", file: "lua/decide.lua",
		right: "ipairs(call('ZRANGE', log, marks, marks + removed - 1))",
		wrong: "ipairs(call('ZRANGE', log, marks, marks + removed))",
		fault: "none,_several_limits", says: "the mark stands for",
	},
	{
		always: true, name: "the window ends a microsecond early", file: "lua/decide.lua",
		right: "local now = time[1] * 1000000 + time[2]",
		wrong: "local now = time[1] * 1000000 + time[2] + 1",
		fault: "none", says: "admissions within",
	},
	{
		name: "the window ends a microsecond late", file: "lua/decide.lua",
		right: "local now = time[1] * 1000000 + time[2]",
		wrong: "local now = time[1] * 1000000 + time[2] - 1",
		fault: "none", says: "while there was room",
	},
	{
		name: "a denial is remembered for a window too long", file: "core/denials.go",
		right: "until:      sentAt + lessDrift(min(ttl, d.ttl)),",
		wrong: "until:      sentAt + lessDrift(min(ttl, d.ttl)) + limits[0].Window,",
		fault: "none", says: "while there was room",
	},
	{
		always: true, name: "a ban is lifted by an expiring entry", file: "lua/decide.lua",
		right: "if ban == 0 or members > 1 or stepped then\n      empty(log, ban, mark)",
		wrong: "if ban == 0 or members > 1 or stepped then\n      empty(log, 0)",
		fault: "replies_lost,_with_bans", says: "during a ban",
	},
	{
		name: "a ban is remembered after it has ended", file: "core/denials.go",
		right: "until:      sentAt + lessDrift(min(ttl, d.ttl)),",
		wrong: "until:      sentAt + lessDrift(min(ttl, d.ttl)) + limits[0].Ban,",
		fault: "replies_lost,_with_bans", says: "while there was room",
	},
	{
		name: "calls wait for as long as they like", file: "internal/dispatch/clock.go",
		right: "c.listened-d.listened+c.tick() > d.after ||",
		wrong: "c.listened-d.listened > time.Minute ||",
		fault: "network_cut", says: "are allowed",
	},
	{
		name: "a starved process waits for ever", file: "internal/dispatch/clock.go",
		right: "now-d.start > d.after+maxLateness*c.timeout",
		wrong: "now-d.start > time.Hour",
		fault: "overload", says: "are allowed",
	},
	{
		name: "a question about a slot that moves is not asked again", file: "internal/dispatch/call.go",
		right: "case rejected && tryAgain(err):",
		wrong: "case rejected && tryAgain(err) && c.attempts < 0:",
		fault: "slots_moved", says: "a call is made again within its time",
	},
	{
		always: true, name: "a lease is not renewed", file: "lua/decide.lua",
		right: "if score and score - g.cutoff[i] > 0 then",
		wrong: "if score and score - g.cutoff[i] < 0 then",
		fault: "requests_in_flight", says: "units in flight at once",
	},
	{
		name: "a release is counted twice", file: "lua/decide.lua",
		right: "    if score then\n      if g.actual > 0 then",
		wrong: "    if score or extra[i] > 0 then\n      if g.actual > 0 then",
		fault: "requests_in_flight", says: "units in flight at once",
	},
}

// soakMutants are for TestSoak, which has checks of its own.
var soakMutants = []mutant{
	{
		name: "the window ends a millisecond early", file: "lua/decide.lua",
		right: "local now = time[1] * 1000000 + time[2]",
		wrong: "local now = time[1] * 1000000 + time[2] + 1000",
		says:  "units within the",
	},
	{
		name: "a retry is not counted at all", file: "lua/decide.lua",
		right: "local known, banned = granted(g, at, entry), false",
		wrong: "local known, banned = again and g.charges and grants or 0, false",
		says:  "callers were told of",
	},
}

func TestMutantsAreFound(t *testing.T) {
	redistest.Long(t)
	if os.Getenv(mutantEnv) != "" {
		t.Skip("this is one")
	}
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			if !mutant.always && !*long {
				t.Skip("for those who ask with -long")
			}
			if mutant.fault != "none" { // which needs the machine for itself, to meet the right microsecond
				t.Parallel()
			}
			mutant.find(t, "TestTorture/"+mutant.fault)
		})
	}
	for _, mutant := range soakMutants {
		t.Run("soak, "+mutant.name, func(t *testing.T) {
			if !*long {
				t.Skip("for those who ask with -long")
			}
			t.Parallel()
			mutant.find(t, "TestSoak", "-soak", "20s", "-seed", "5") // which loses requests first
		})
	}
}

// find runs a test, which has to fail because of the mistake.
func (m mutant) find(t *testing.T, test string, flags ...string) {
	dir := copyOf(t, "../..")
	file := filepath.Join(dir, m.file)
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), m.right), "%s has %s once", m.file, m.right)
	require.NoError(t, os.WriteFile(file, bytes.Replace(source, []byte(m.right), []byte(m.wrong), 1), 0o600))
	run := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	args := []string{"test", "-count=1", "-vet=off", "-ldflags=-s -w", "-run", run, "./internal/torture"}
	cmd := exec.Command("go", append(args, flags...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), mutantEnv+"=1")
	out, err := cmd.CombinedOutput()
	assert.Error(t, err, "the suite finds nothing")
	assert.Contains(t, string(out), m.says)
	assert.Contains(t, string(out), "--- FAIL: "+test, "it fails by the fault and not for want of building")
}

const mutantEnv = "EXACTLIMIT_TORTURE_MUTANT"

// copyOf copies the module's source, without its nested modules.
func copyOf(t *testing.T, root string) string {
	dir := t.TempDir()
	for _, part := range []string{"go.mod", "go.sum", "core", "lua", "internal/torture", "internal/redistest", "internal/oracle", "internal/dispatch"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, part)), 0o700))
		out, err := exec.Command("cp", "-R", filepath.Join(root, part), filepath.Join(dir, part)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}
