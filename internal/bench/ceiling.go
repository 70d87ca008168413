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

// ceiling compares exactlimit in Go with the highest rates of Redis itself. Redis has one core to itself, and
// redis-benchmark or exactlimit has another. All rates are per second.
type ceiling struct {
	Nothing, Bare float64 // calls of a script that returns 1, and of one with five commands
	One, Batch    float64 // decisions of the script with one question in a call, and with many
	Go            float64 // decisions of exactlimit in Go
	Ratio         float64 // Go divided by Batch
}

// batch is the number of questions in a call with many.
const batch = 32

// bare is a script with only the five commands of a sliding log. No script with these commands can be faster.
const bare = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
local n = redis.call('ZCARD', KEYS[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], 11000)
return n`

const (
	rawQuestions = 150_000
	redisCore    = "0"
	loadCore     = "1"

	decideScript = "../../lua/decide.lua"
)

func measureCeiling(rounds int, length time.Duration, progress func(string)) (*ceiling, error) {
	for _, tool := range []string{"taskset", "redis-benchmark"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is not installed", errSkipped, tool)
		}
	}
	if err := exec.Command("taskset", "-c", redisCore+","+loadCore, "true").Run(); err != nil {
		return nil, fmt.Errorf("%w: two cores are needed", errSkipped)
	}
	decide, err := os.ReadFile(decideScript) // not through package lua, which may differ in another checkout
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errSkipped, err)
	}
	redis, err := startServer("taskset", "-c", redisCore)
	if err != nil {
		return nil, err
	}
	defer redis.stop()

	one := func(questions int) []string { return []string{"one", strconv.Itoa(questions), "1000", "10000000"} }
	scripts := []script{
		{"return 1", "return 1", 1, nil, false},
		{"bare", bare, 1, []string{"1000", "10000000"}, true},
		{"decide", string(decide), 1, one(1), true},
		{fmt.Sprint("decide ", batch), string(decide), batch, one(batch), true},
	}
	rates := make([][]float64, len(scripts)+1)
	for round := range rounds {
		for i := range rates {
			i = (i + round) % len(rates)
			if err := redis.flush(); err != nil {
				return nil, err
			}
			var perSecond float64
			name := "through Go"
			if i < len(scripts) {
				name = scripts[i].name
				perSecond, err = scripts[i].benchmark(redis)
			} else {
				perSecond, err = throughGo(redis, length)
			}
			if err != nil {
				return nil, fmt.Errorf("ceiling: %w", err)
			}
			rates[i] = append(rates[i], perSecond)
			progress(fmt.Sprintf("ceiling %d/%d %s %s/s", round+1, rounds, name, amount(perSecond)))
		}
	}
	return &ceiling{
		Nothing: median(rates[0]),
		Bare:    median(rates[1]),
		One:     median(rates[2]),
		Batch:   median(rates[3]),
		Go:      median(rates[4]),
		Ratio:   median(ratios(rates[4], rates[3])),
	}, nil
}

var errSkipped = errors.New("skipped")

// script is a script for redis-benchmark.
type script struct {
	name, text string
	questions  int      // in a call, each with a key
	args       []string // after the id of the call
	adds       bool     // whether it adds an entry for each question
}

// benchmark runs redis-benchmark with a script, with keys and ids as long as those of exactlimit, and returns the
// questions per second. The ids are random numbers, so a few entries of a key may have the same id. It checks that
// nearly all have their own.
func (s script) benchmark(redis *server) (float64, error) {
	sha, err := redis.do("SCRIPT", "LOAD", s.text).ToString()
	if err != nil {
		return 0, err
	}
	_, port, _ := strings.Cut(redis.addr, ":")
	out, err := exec.Command("taskset", slices.Concat(
		[]string{"-c", loadCore, "redis-benchmark", "-p", port, "--csv", "-r", "10000",
			"-n", strconv.Itoa(rawQuestions / s.questions), "-c", "20", "-P", "32", "evalsha", sha,
			strconv.Itoa(s.questions)},
		slices.Repeat([]string{"b:{__rand_int__}:bench:10000v3"}, s.questions),
		[]string{"__rand_int__"}, s.args)...).Output()
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Split(lines[len(lines)-1], ",")
	if len(fields) < 2 {
		return 0, fmt.Errorf("redis-benchmark printed %q", out)
	}
	if s.adds {
		entries, err := redis.do("EVAL",
			"local n = 0 for _, k in ipairs(redis.call('KEYS', '*')) do n = n + redis.call('ZCARD', k) end return n",
			"0").AsInt64()
		if err != nil || entries < rawQuestions*99/100 {
			return 0, fmt.Errorf("%s: %d entries of %d questions: %v", s.name, entries, rawQuestions, err)
		}
	}
	calls, err := strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
	return calls * float64(s.questions), err
}

// throughGo runs the scenario spread/256 in a child process on its own core.
func throughGo(redis *server, length time.Duration) (float64, error) {
	all := scenarios()
	s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == "spread/256" })]
	j := s.job(s.contenders[0], servers{redis}, "b")
	j.Length = length
	var t turn
	if err := j.result("", &t, "env", "GOMAXPROCS=1", "taskset", "-c", loadCore); err != nil {
		return 0, err
	}
	return t.perSecond(), s.validate(t, servers{redis}, s.contenders[0])
}
