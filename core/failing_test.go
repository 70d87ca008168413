package core

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rightsThatMayFail are the commands of the script, except those that take back what a failing call has charged. An
// empty one stands for a call that may run all.
var rightsThatMayFail = []string{
	"", "", "", "", "ZCARD", "ZCOUNT", "ZSCORE", "ZRANGE", "ZRANGEBYSCORE", "ZADD", "ZREMRANGEBYSCORE",
	"ZREMRANGEBYRANK", "PEXPIRE",
}

// Whatever command fails in whatever call, the logs hold exactly the units that were granted and not given back, and
// bans hold. A call that fails charges nothing, and a settle that fails gives nothing back.
func TestAnyCommandMayFail(t *testing.T) {
	redis := newClockedRedis(t)
	budgets := []string{"1000 - 7 * keys", "1", "6"}
	scripts := map[string]string{} // the SHA-1, by budget and missing right
	for _, budget := range budgets {
		for _, right := range rightsThatMayFail {
			script := redis.without(t, right)
			require.Equal(t, 1, strings.Count(script, "1000 - 7 * keys or 100"))
			redis.load(t, strings.Replace(script, "1000 - 7 * keys or 100", budget+" or 100", 1))
			scripts[budget+right] = redis.sha1
		}
	}
	runs := 150
	if testing.Short() {
		runs = 30
	}
	var failed, granted, bans int
	for seed := range runs {
		random := rand.New(rand.NewPCG(uint64(seed), 1))
		budget := budgets[random.IntN(len(budgets))]
		r := failingRun{
			clockedRedis: redis, random: random, bannedUntil: map[string]int64{},
			logs: []string{fmt.Sprint("any", seed, "A"), fmt.Sprint("any", seed, "B")},
		}
		for call := range 40 {
			r.now += random.Int64N(400_000)
			right := rightsThatMayFail[random.IntN(len(rightsThatMayFail))]
			if random.IntN(3) == 0 && len(r.all) > 0 {
				r.settle(t, scripts, budget, right, call)
			} else {
				r.admit(t, scripts, budget, right, call)
			}
			r.check(t)
		}
		failed, granted, bans = failed+r.failed, granted+len(r.all), bans+len(r.bannedUntil)
	}
	assert.Greater(t, failed, runs)
	assert.Greater(t, granted, runs)
	assert.Greater(t, bans, runs/2)
}

// failingRun is a random sequence of calls about two logs of at most failingMax units in failingWindow.
type failingRun struct {
	clockedRedis
	random      *rand.Rand
	logs        []string
	now         int64
	all         []*grant
	bannedUntil map[string]int64 // by log
	failed      int              // how many calls have failed
	trace       []string
}

const failingWindow, failingMax, failingBan = second, 8, 2 * second

// grant is what one question was granted. Its requests share an entry at first.
type grant struct {
	entry   string
	logs    []string
	at      int64
	cost    int
	charges []int // of each request
}

// ask makes a call, and returns nothing if it fails for want of a right.
func (r *failingRun) ask(t *testing.T, sha1, right, logs, args string) []rueidis.RedisMessage {
	r.trace = append(r.trace, fmt.Sprintf("%d without %q: %s: %s", r.now, right, logs, args))
	r.sha1 = sha1
	reply, err := r.tryCall(t, r.now, r.names(logs), strings.Fields(args))
	if err != nil {
		require.NotEmpty(t, right, "%v: %v", err, r.trace)
		r.failed++
		return nil
	}
	return reply
}

// settle lowers what one request was charged.
func (r *failingRun) settle(t *testing.T, scripts map[string]string, budget, right string, call int) {
	a := r.all[r.random.IntN(len(r.all))]
	position, actual := r.random.IntN(len(a.charges)), r.random.IntN(a.cost)
	if a.charges[position] != a.cost {
		return // it was settled before
	}
	if len(a.logs) > 1 {
		right = "" // it could give back units in one of the logs only, until it is repeated
	}
	args := fmt.Sprintf("c%d settle %d %s %d %d %d %d", call, len(a.logs), a.entry, len(a.charges), position, a.cost,
		actual) + strings.Repeat(fmt.Sprint(" ", failingWindow), len(a.logs))
	reply := r.ask(t, scripts[budget+right], right, strings.Join(a.logs, " "), args)
	if reply == nil {
		return
	}
	freed, err := reply[0].AsInt64()
	require.NoError(t, err, r.trace)
	if freed >= 0 { // otherwise it is to be asked again
		a.charges[position] = actual
	}
}

// admit asks to admit requests, by up to three questions.
func (r *failingRun) admit(t *testing.T, scripts map[string]string, budget, right string, call int) {
	var asked []*grant
	args, logs := fmt.Sprint("c", call), ""
	for q := range 1 + r.random.IntN(3) {
		a := &grant{
			entry: fmt.Sprintf("c%d.%d", call, q+1), at: r.now, cost: 1 + r.random.IntN(3),
			charges: make([]int, 1+r.random.IntN(3)),
		}
		for _, i := range [][]int{{0}, {1}, {0, 1}, {1, 0}}[r.random.IntN(4)] {
			a.logs = append(a.logs, r.logs[i])
		}
		if a.cost == 1 && len(a.charges) == 1 && len(a.logs) == 1 {
			args += fmt.Sprintf(" one 1 %d %d", failingMax, failingWindow)
		} else {
			args += fmt.Sprintf(" admit 1 %d %d %d 0", len(a.logs), len(a.charges), a.cost)
			for range a.logs {
				args += fmt.Sprintf(" %d %d %d", failingMax, failingWindow, failingBan*(r.random.Int64N(5)/4))
			}
		}
		logs += " " + strings.Join(a.logs, " ")
		asked = append(asked, a)
	}
	for q, answer := range r.ask(t, scripts[budget+right], right, logs, args) {
		a := asked[q]
		granted, banned := r.read(t, answer, a)
		for i, log := range a.logs {
			require.False(t, granted > 0 && r.now < r.bannedUntil[log], "%s: granted during a ban: %v", log, r.trace)
			if banned != nil && banned[i] > 0 {
				r.bannedUntil[log] = r.now + banned[i]
			}
		}
		if a.charges = a.charges[:granted]; granted > 0 {
			for i := range a.charges {
				a.charges[i] = a.cost
			}
			r.all = append(r.all, a)
		}
	}
}

// read returns how many requests were granted, and how long the bans of the logs last, if there are any.
func (r *failingRun) read(t *testing.T, answer rueidis.RedisMessage, a *grant) (granted int, banned []int64) {
	numbers, err := answer.AsIntSlice()
	if err != nil {
		remaining, err := answer.AsInt64()
		require.NoError(t, err, r.trace)
		if remaining < 0 {
			return 0, nil // it is to be asked again
		}
		return len(a.charges), nil
	}
	if logs := 1 + 3*len(a.logs); len(numbers) > logs {
		banned = numbers[logs:]
	}
	return int(numbers[0]), banned
}

// check compares the logs with what was granted.
func (r *failingRun) check(t *testing.T) {
	want, got := map[string]int64{}, map[string]int64{}
	for _, a := range r.all {
		for _, log := range a.logs {
			for _, units := range a.charges {
				if r.now-a.at < failingWindow {
					want[log] += int64(units)
				}
			}
		}
	}
	for _, log := range r.logs {
		name := r.names(log)[0]
		requireMarks(t, r.client, name)
		for member, score := range members(t, r.client, name) {
			if score > r.now+epoch-failingWindow {
				got[log] += weightOf(t, member)
			}
		}
		require.Equal(t, want[log], got[log], "units in %s: %v", log, r.trace)
		require.LessOrEqual(t, got[log], int64(failingMax), r.trace)
	}
}
