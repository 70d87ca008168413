// Package torture injects faults into what a limiter depends on, and checks its decisions by what the servers recorded.
//
//	go test -v ./internal/torture                      every fault once
//	go test -v ./internal/torture -long -timeout 1h    most faults five times as long, with two seeds
//	go test -v ./internal/torture -run TestSoak -soak 1h -timeout 0
//
// The last command makes as many decisions as possible, and checks them as they are made, in bounded memory and on
// bounded disk. A run prints its seed, and -seed repeats it, as far as a busy machine can. -run selects faults.
package torture

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

var (
	long = flag.Bool("long", false, "five times as long, with two seeds")
	seed = flag.Uint64("seed", 0, "repeat the faults of this seed")

	soakTime = flag.Duration("soak", 3*time.Second, "how long TestSoak goes on")
)

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(callersEnv) != "" {
		if err := call(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	redistest.Main(m)
}

var report []Row

// TestTorture plays every fault, and prints a row for each.
func TestTorture(t *testing.T) {
	redistest.Long(t)
	first, seeds := *seed, uint64(1)
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1_000_000
		if *long {
			seeds = 2
		}
	}
	t.Logf("repeat it with -seed %d", first)
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			for i := range seeds {
				fault.play(newScene(t, fault.name, first+i))
			}
		})
	}
	t.Log("\n" + Table(report))
}
