// Command bench compares exactlimit with other rate limiters of Go, side by side on this machine, and with what Redis itself
// can do. It starts the redis-server that it needs. From the project's root:
//
//	go run -C internal/bench .
//
// It takes less than five minutes and prints a report in Markdown. Absolute numbers are this machine's; the ratios, each taken
// within one round in which all contenders had their turn, travel better.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	var (
		asJSON = flag.Bool("json", false, "print JSON instead of Markdown")
		rounds = flag.Int("rounds", 5, "`turns` of each contender in each scenario")
		length = flag.Duration("for", 700*time.Millisecond, "`time` of a turn, of which a fifth is to warm up")
		only   = flag.String("only", "", "`regexp` of the scenarios to run: "+strings.Join(names(), " "))
		svg    = flag.String("svg", "../../testdata/speed.svg", "`file` to draw the chart to; empty for none")
		child  = flag.String("pinned", "", "used by the program itself")
	)
	flag.Parse()
	if *child != "" {
		if err := runPinned(*child, *length); err != nil {
			fail(err)
		}
		return
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		fail(err)
	}
	if *rounds < 1 || *length < 10*time.Millisecond || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	r, err := measure(wanted.MatchString, *rounds, *length)
	if err != nil {
		fail(err)
	}
	r.Command = strings.Join(append([]string{"go run -C internal/bench ."}, os.Args[1:]...), " ")
	if *asJSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(r)
	} else {
		_, err = fmt.Print(r.markdown())
	}
	if err != nil {
		fail(err)
	}
	switch {
	case *svg == "":
	case !r.charted():
		fmt.Fprintln(os.Stderr, "no chart: it shows scenarios that -only has left out")
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

func names() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return append(names, "ceiling", "accuracy", "bytes")
}

func measure(wanted func(string) bool, rounds int, length time.Duration) (*report, error) {
	start := time.Now()
	progress := func(line string) { fmt.Fprintf(os.Stderr, "%4.0fs %s\n", time.Since(start).Seconds(), line) }
	redis, err := startServer()
	if err != nil {
		return nil, err
	}
	defer redis.stop()

	r := &report{Machine: describe(redis), Rounds: rounds, Turn: length}
	all := scenarios()
	for _, s := range all {
		if !wanted(s.name) {
			continue
		}
		if err := s.check(redis); err != nil {
			return nil, err
		}
	}
	progress("everyone limits")
	for _, s := range all {
		if !wanted(s.name) {
			continue
		}
		result, err := s.play(redis, rounds, length, progress)
		if err != nil {
			return nil, err
		}
		r.Scenarios = append(r.Scenarios, result)
	}
	if wanted("ceiling") {
		r.Ceiling, err = measureCeiling(rounds, length, progress)
		if errors.Is(err, errSkipped) {
			r.NoCeiling, err = err.Error(), nil
		}
		if err != nil {
			return nil, err
		}
	}
	if wanted("accuracy") {
		if err := redis.flush(); err != nil {
			return nil, err
		}
		if r.OnRedis, r.InMemory, err = accuracy(redis, progress); err != nil {
			return nil, err
		}
	}
	if wanted("bytes") {
		if r.Bytes, err = footprints(redis, progress); err != nil {
			return nil, err
		}
	}
	r.Took = time.Since(start)
	return r, nil
}
