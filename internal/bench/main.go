// Command bench compares exactlimit with other rate limiters of Go, side by side on this machine, and with what Redis
// itself can do. It starts the redis-server that it needs. From the project's root:
//
//	go run -C internal/bench .
//
// It takes about ten minutes and prints a report in Markdown. Absolute numbers are valid for this machine only. The
// ratios, each taken within one round in which all contenders had their turn, depend on it less.
//
// Scenarios and contenders can be selected by regular expressions. exactlimit always runs, because the others are
// compared with it:
//
//	go run -C internal/bench . -only 'hot|zipf' -contenders rueidis
//	go run -C internal/bench . -only overload -contenders none
//	go run -C internal/bench . -only service -rounds 9 -for 2s
//
// To compare two versions of exactlimit in one interleaved run, name the root of another checkout, such as one made by
// git worktree. This program is also built for that checkout, whose exactlimit becomes the contender "other":
//
//	git worktree add --detach /tmp/before HEAD~5
//	go run -C internal/bench . -only 'spread|hot|service' -contenders none -against /tmp/before
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	var (
		asJSON     = flag.Bool("json", false, "print JSON instead of Markdown")
		rounds     = flag.Int("rounds", 5, "`turns` of each contender in each scenario")
		length     = flag.Duration("for", 700*time.Millisecond, "`time` of a turn, of which a fifth is warm-up")
		only       = flag.String("only", "", "`regexp` of the scenarios to run: "+strings.Join(names(), " "))
		contenders = flag.String("contenders", "",
			"`regexp` of the contenders to compare exactlimit with; all if empty")
		against = flag.String("against", "",
			"root `directory` of another checkout of exactlimit, which becomes a contender")
		svg   = flag.String("svg", "../../testdata/speed.svg", "`file` to draw the chart to; empty for none")
		child = flag.String("child", "", "used by the program itself")
	)
	flag.Parse()
	if *child != "" {
		var j job
		err := json.Unmarshal([]byte(*child), &j)
		if err == nil {
			err = j.run(os.Stdin, os.Stdout)
		}
		if err != nil {
			fail(err)
		}
		return
	}
	scenarioNames, err := regexp.Compile(*only)
	if err != nil {
		fail(err)
	}
	contenderNames, err := regexp.Compile(*contenders)
	if err != nil {
		fail(err)
	}
	if *rounds < 1 || *length < 10*time.Millisecond || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	p := plan{wanted: scenarioNames.MatchString, contenders: contenderNames.MatchString,
		rounds: *rounds, length: *length}
	r, failure := p.measure(*against)
	if failure != nil && len(r.Scenarios) == 0 {
		fail(failure)
	}
	r.Command = strings.Join(append([]string{"go run -C internal/bench ."}, os.Args[1:]...), " ")
	if *asJSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(r)
	} else {
		_, err = fmt.Print(r.markdown())
	}
	if err = errors.Join(failure, err); err != nil {
		fail(err)
	}
	switch {
	case *svg == "":
	case !r.charted() || *contenders != "" || *against != "":
		fmt.Fprintln(os.Stderr, "no chart: it needs all contenders, and scenarios that the flags have excluded")
	default:
		if err := os.WriteFile(*svg, []byte(chart(r)), 0o644); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// names returns what -only can select.
func names() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return append(names, "ceiling", "accuracy", "bytes")
}

// plan is what the flags select.
type plan struct {
	wanted     func(scenario string) bool
	contenders func(name string) bool // besides exactlimit
	rounds     int
	length     time.Duration
}

// measure runs everything that is selected. Unless against is empty, a build for that checkout is another contender.
// Together with an error it returns what was measured before.
func (p plan) measure(against string) (*report, error) {
	start := time.Now()
	r := &report{Rounds: p.rounds, Turn: p.length, Against: against}
	defer func() { r.Took = time.Since(start) }()
	progress := func(line string) { fmt.Fprintf(os.Stderr, "%4.0fs %s\n", time.Since(start).Seconds(), line) }
	var other contender
	if against != "" {
		exe, remove, err := build(against)
		if err != nil {
			return r, err
		}
		defer remove()
		other = contender{name: "other", exe: exe}
		progress("built for " + against)
	}
	redis, err := startServer()
	if err != nil {
		return r, err
	}
	defer redis.stop()
	r.Machine = describe(redis)
	var all []scenario
	for _, s := range scenarios() {
		if !p.wanted(s.name) {
			continue
		}
		s.choose(p.contenders, other)
		all = append(all, s)
		if s.masters > 1 {
			continue // a cluster runs only while it is measured
		}
		if err := s.check(servers{redis}[:s.masters], inChild); err != nil {
			return r, err
		}
	}
	progress("all contenders limit")
	spin := spinsPerMicrosecond()
	for _, s := range all {
		on := servers{redis}[:min(1, s.masters)]
		if s.masters > 1 {
			if on, err = startCluster(s.masters); err != nil {
				return r, err
			}
			err = s.check(on, inChild)
		}
		var result result
		if err == nil {
			result, err = s.play(on, p.rounds, p.length, spin, inChild, progress)
		}
		if s.masters > 1 {
			on.stop()
		}
		if err != nil {
			return r, err
		}
		r.Scenarios = append(r.Scenarios, result)
	}
	if p.wanted("ceiling") {
		r.Ceiling, err = measureCeiling(p.rounds, p.length, progress)
		if errors.Is(err, errSkipped) {
			r.NoCeiling, err = err.Error(), nil
		}
		if err != nil {
			return r, err
		}
	}
	if p.wanted("accuracy") {
		if err := redis.flush(); err != nil {
			return r, err
		}
		unwanted := func(c contender) bool { return c.name != ours && !p.contenders(c.name) }
		chosen := func(all []contender) []contender { return slices.DeleteFunc(slices.Clone(all), unwanted) }
		r.OnRedis, r.InMemory, err = accuracy(chosen(onRedis), chosen(inMemory), redis, progress)
		if err != nil {
			return r, err
		}
	}
	if p.wanted("bytes") {
		j := job{Bytes: true, Addrs: []string{redis.addr}}
		if err := j.result("", &r.Bytes); err != nil {
			return r, err
		}
		if other.exe != "" {
			if err := j.result(other.exe, &r.OtherBytes); err != nil {
				return r, err
			}
		}
		progress("bytes")
	}
	return r, nil
}
