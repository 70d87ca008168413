package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ceiling says how near limiting through Go comes to the most that the script can do: Redis has one core to itself, and who
// asks has another, be it redis-benchmark or us.
type ceiling struct {
	Nothing, Bare, Decide, Go float64 // per second: "return 1", five commands, the decision script, and through Go
	Ratio                     float64 // Go over Decide
}

// bare does the five commands of a sliding log and nothing else: the most that a script with them can reach.
const bare = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
local n = redis.call('ZCARD', KEYS[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], 11000)
return n`

const (
	rawCalls  = 150_000
	redisCore = "0"
	askCore   = "1"

	decideScript = "../../lua/decide.lua"
)

func measureCeiling(rounds int, length time.Duration, progress func(string)) (*ceiling, error) {
	for _, tool := range []string{"taskset", "redis-benchmark"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is not installed", errSkipped, tool)
		}
	}
	if err := exec.Command("taskset", "-c", redisCore+","+askCore, "true").Run(); err != nil {
		return nil, fmt.Errorf("%w: it takes two cores", errSkipped)
	}
	decide, err := os.ReadFile(decideScript) // not by its Go name, which another checkout may not have
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errSkipped, err)
	}
	redis, err := startServer("taskset", "-c", redisCore)
	if err != nil {
		return nil, err
	}
	defer redis.stop()

	scripts := []struct {
		text string
		adds bool
	}{{"return 1", false}, {bare, true}, {string(decide), true}}
	rates := make([][]float64, 4)
	for round := range rounds {
		for i := range rates {
			i = (i + round) % len(rates)
			if err := redis.flush(); err != nil {
				return nil, err
			}
			var perSecond float64
			if i < len(scripts) {
				perSecond, err = raw(redis, scripts[i].text, scripts[i].adds)
			} else {
				perSecond, err = pinned(redis, length)
			}
			if err != nil {
				return nil, fmt.Errorf("ceiling: %w", err)
			}
			rates[i] = append(rates[i], perSecond)
			progress(fmt.Sprintf("ceiling %d/%d %s %s/s", round+1, rounds, []string{"return 1", "bare", "decide", "through Go"}[i], amount(perSecond)))
		}
	}
	return &ceiling{median(rates[0]), median(rates[1]), median(rates[2]), median(rates[3]), median(ratios(rates[3], rates[2]))}, nil
}

var errSkipped = errors.New("skipped")

// raw has redis-benchmark call a script, under names and ids as long as ours. It draws a number for each place, so of twenty
// calls for a key hardly two have one id; that so many entries are there is checked.
func raw(redis *server, script string, adds bool) (float64, error) {
	sha, err := redis.do("SCRIPT", "LOAD", script).ToString()
	if err != nil {
		return 0, err
	}
	_, port, _ := strings.Cut(redis.addr, ":")
	out, err := exec.Command("taskset", "-c", askCore, "redis-benchmark", "-p", port, "--csv", "-r", "10000",
		"-n", strconv.Itoa(rawCalls), "-c", "20", "-P", "32",
		"evalsha", sha, "1", "b:{__rand_int__}:bench:10000", "__rand_int__", "1000", "10000000").Output()
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Split(lines[len(lines)-1], ",")
	if len(fields) < 2 {
		return 0, fmt.Errorf("redis-benchmark says %q", out)
	}
	if adds {
		entries, err := redis.do("EVAL", "local n = 0 for _, k in ipairs(redis.call('KEYS', '*')) do n = n + redis.call('ZCARD', k) end return n", "0").AsInt64()
		if err != nil || entries < rawCalls*99/100 {
			return 0, fmt.Errorf("%d entries of %d calls: %v", entries, rawCalls, err)
		}
	}
	return strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
}

// pinned has this program run once more, on a core of its own, to ask as the scenario spread/256 does.
func pinned(redis *server, length time.Duration) (float64, error) {
	all := scenarios()
	s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == "spread/256" })]
	j := s.job(s.contenders[0], servers{redis}, "b")
	j.Length = length
	var t turn
	if err := j.result("", &t, "env", "GOMAXPROCS=1", "taskset", "-c", askCore); err != nil {
		return 0, err
	}
	return t.perSecond(), s.doubt(t, servers{redis}, s.contenders[0])
}
