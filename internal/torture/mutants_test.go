package torture

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// mutant is a limiter with one bug.
type mutant struct {
	name  string
	fault string // that shows the bug; "soak" is TestSoak
	says  string // what the suite says of it
	alone bool   // whether other tests must not keep the processors busy meanwhile
	Bug
}

// A suite that finds nothing may be blind. It has to find these bugs. They break each of the rules: ids, windows,
// retries, batches, weights, settlements, denials, bans, leases and deadlines.
var mutants = []mutant{
	{
		name: "ids are timestamps", fault: "none", says: "an id added twice",
		Bug: Bug{Lua: `
			local time = redis.call('TIME')
			ARGV[1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))`},
	},
	{
		name: "a window ends 50 microseconds early", fault: "none", says: "admissions within",
		Bug: Bug{Lua: cutoffsLaterBy("50")}, // a busy machine rarely meets the very microsecond
	},
	{
		name: "a window ends 50 microseconds late", fault: "none", says: "while there was room",
		Bug: Bug{Lua: cutoffsLaterBy("-50")},
	},
	{
		name: "a log expires before its window ends", fault: "none", says: "admissions within",
		Bug: Bug{Lua: `
			run = function(args, call)
				if args[1] == 'PEXPIRE' and args[3] + 0 > 1 then
					args[3], args[4] = 10, nil
				end
				return call(unpack(args))
			end`},
	},
	{
		name: "a denied request is charged", fault: "none", says: "the servers recorded",
		Bug: Bug{Lua: `
			answer = function(reply)
				local time = redis.call('TIME')
				for q, list in ipairs(reply) do
					if type(list) == 'table' and list[1] == 0 then
						local score = string.format('%.0f', time[1] * 1000000 + time[2])
						redis.call('ZADD', KEYS[q], score, ARGV[1] .. 'denied.' .. q)
					end
				end
				return reply
			end`},
	},
	{
		name: "a denial is remembered for a window too long", fault: "none, several limits",
		says: "while there was room",
		Bug: Bug{Lua: `
			answer = function(reply)
				for _, list in ipairs(reply) do
					if type(list) == 'table' and list[1] > 0 and list[3] > 0 then
						list[3] = list[3] + 100000
					end
				end
				return reply
			end`},
	},
	{
		name: "a batch's answers are shifted by one", fault: "none, several limits", says: "while there was room",
		Bug: Bug{Lua: `
			answer = function(reply)
				table.insert(reply, 1, table.remove(reply))
				return reply
			end`},
	},
	{
		name: "a weight is lost in cleaning", fault: "none, several limits", says: "the mark stands for",
		Bug: Bug{Lua: `
			run = function(args, call)
				if args[1] == 'ZRANGE' and not args[5] then
					args[4] = args[4] - 1
				end
				return call(unpack(args))
			end`},
	},
	{
		name: "one of two limits is not charged", fault: "none, several limits",
		says: "to one limit and nothing to the other",
		Bug: Bug{Lua: `
			run = function(args, call)
				if args[1] == 'ZADD' and string.find(args[2], ':second:', 1, true) then
					return 1
				end
				return call(unpack(args))
			end`},
	},
	{
		name: "a retry is counted twice", fault: "replies lost", says: "an id added twice",
		Bug: Bug{Lua: `
			if ARGV[2] == 'again' then
				table.remove(ARGV, 2)
			end`},
	},
	{
		name: "a retry is counted twice, under another id", fault: "replies lost", says: "the servers recorded",
		Bug: Bug{Lua: `
			if ARGV[2] == 'again' then
				ARGV[1] = ARGV[1] .. 'x' .. redis.call('TIME')[2]
			end`},
	},
	{
		name: "a question of a failed batch is both charged and denied", fault: "replies lost",
		says: "the servers recorded",
		Bug: Bug{Lua: `
			answer = function(reply)
				for q, answer in ipairs(ARGV[2] == 'again' and reply or {}) do
					if type(answer) == 'table' then
						answer[1] = math.max(0, answer[1] - 1)
					elseif answer > 0 then
						reply[q] = { 0, answer, 0, 0 }
					end
				end
				return reply
			end`},
	},
	{
		name: "a retry is not counted at all", fault: "requests lost", says: "callers were told of",
		Bug: Bug{Lua: uncountedRetry},
	},
	{
		name: "an overcharge is forgotten", fault: "replies lost, of calls that cost more",
		says: "callers were told that calls have cost",
		Bug: Bug{Lua: `
			for a, word in ipairs(ARGV) do
				if word == 'settle' and ARGV[a + 6] - ARGV[a + 5] > 0 then
					ARGV[a + 6] = ARGV[a + 5]
				end
			end`},
	},
	{
		name: "a settle is charged twice", fault: "replies lost, of calls that cost more", says: "an id added twice",
		Bug: Bug{Lua: `
			run = function(args, call)
				if args[1] == 'ZSCORE' and string.find(args[3], '+', 1, true) then
					return false
				end
				return call(unpack(args))
			end`},
	},
	{
		name: "a ban is lifted by an expiring entry", fault: "replies lost, with bans", says: "during a ban",
		Bug: Bug{Lua: `
			run = function(args, call)
				local reply = call(unpack(args))
				if args[1] == 'ZREMRANGEBYSCORE' and reply ~= 0 then
					call('ZREMRANGEBYSCORE', args[2], '-inf', '-1000000000000000') -- the score of a ban
				end
				return reply
			end`},
	},
	{
		name: "a ban is remembered after it has ended", fault: "replies lost, with bans", says: "while there was room",
		Bug: Bug{Lua: `
			answer = function(reply)
				for _, list in ipairs(reply) do
					if type(list) == 'table' and list[5] and list[5] > 0 then
						list[5] = list[5] + 400000
					end
				end
				return reply
			end`},
	},
	{
		name: "a lease is not renewed", fault: "requests in flight", says: "units in flight at once",
		Bug: Bug{Lua: `
			run = function(args, call)
				if args[1] == 'ZADD' and args[3] == 'XX' then
					return 0
				end
				return call(unpack(args))
			end`},
	},
	{
		name: "a release is counted twice", fault: "requests in flight", says: "units in flight at once",
		Bug: Bug{Lua: `
			local released = {}
			for a, word in ipairs(ARGV) do
				if word == 'settle' then
					released[ARGV[a + 2]] = true
				end
			end
			run = function(args, call)
				local reply = call(unpack(args))
				if args[1] == 'ZSCORE' and released[string.match(args[3], '^[^*]*')] then
					return reply or '1'
				end
				return reply
			end`},
	},
	{
		name: "calls wait for as long as they like", fault: "network cut", says: "are allowed", alone: true,
		Bug: Bug{Timeout: time.Minute},
	},
	{
		name: "a circuit breaker that has opened never closes", fault: "network cut",
		says: "Redis decides no calls of a process again at the end",
		Bug:  Bug{Lua: `if ARGV[2] == 'probe' then redis.call('NO-SUCH-COMMAND') end`},
	},
	{
		name: "a starved process waits for ever", fault: "overload", says: "are allowed",
		Bug: Bug{Timeout: time.Minute},
	},
	{
		name: "a question about a slot that moves is not asked again", fault: "slots moved",
		says: "a call is sent again within its time",
		Bug:  Bug{Forgets: "TRYAGAIN"},
	},
	{
		name: "a window ends 10 milliseconds early", fault: "soak", says: "units within the",
		Bug: Bug{Lua: cutoffsLaterBy("10000")},
	},
	{
		name: "a retry is not counted at all, in a soak", fault: "soak", says: "callers were told of",
		Bug: Bug{Lua: uncountedRetry},
	},
}

// cutoffsLaterBy moves the time up to which entries have expired by so many microseconds.
func cutoffsLaterBy(microseconds string) string {
	return `
		run = function(args, call)
			if (args[1] == 'ZCOUNT' or args[1] == 'ZREMRANGEBYSCORE') and tonumber(args[4]) then
				args[4] = string.format('%.0f', args[4] + ` + microseconds + `)
			end
			return call(unpack(args))
		end`
}

// uncountedRetry has a retry find what no earlier attempt has charged, unless it settles something.
const uncountedRetry = `
	local again = ARGV[2] == 'again'
	for _, word in ipairs(ARGV) do
		again = again and word ~= 'settle'
	end
	run = again and function(args, call)
		if args[1] == 'ZSCORE' and args[3] ~= '*' then
			return '1'
		end
		return call(unpack(args))
	end`

// mutantEnv names the mutant that a run of this binary is.
const mutantEnv = "EXACTLIMIT_TORTURE_MUTANT"

// plantedBug returns the bug of the mutant that this run is, or none.
func plantedBug(t *testing.T) Bug {
	name := os.Getenv(mutantEnv)
	if name == "" {
		return Bug{}
	}
	i := slices.IndexFunc(mutants, func(m mutant) bool { return m.name == name })
	if i < 0 {
		t.Fatalf("%s=%q is no mutant", mutantEnv, name)
	}
	return mutants[i].Bug
}

func TestMutantsAreFound(t *testing.T) {
	redistest.Long(t)
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			if !mutant.alone {
				t.Parallel()
			}
			mutant.find(t)
		})
	}
}

// attempts is how often a bug may need to be looked for, since faults meet calls by chance, and a busy machine makes
// few calls.
const attempts = 3

// find runs the test of the fault in another process, where it has to fail because of the bug.
func (m mutant) find(t *testing.T) {
	test, flags := "TestTorture/"+strings.ReplaceAll(m.fault, " ", "_"), []string(nil)
	if m.fault == "soak" {
		test, flags = "TestSoak", []string{"-soak=20s", "-seed=5"} // which loses requests first
	}
	run := "-test.run=^" + strings.ReplaceAll(regexp.QuoteMeta(test), "/", "$/^") + "$"
	for i := range attempts {
		cmd := exec.Command(os.Args[0], append(flags, run)...)
		cmd.Env = append(os.Environ(), mutantEnv+"="+m.name)
		out, _ := cmd.CombinedOutput()
		if strings.Contains(string(out), "--- FAIL: "+test) && strings.Contains(string(out), m.says) {
			return
		}
		t.Logf("attempt %d does not say %q:\n%s", i+1, m.says, out)
	}
	t.Error("the suite does not find the bug")
}
