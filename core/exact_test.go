package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// seen is what one call came to, as its caller saw it, in microseconds of the machine's clock, which is the server's.
type seen struct {
	Key          string
	Sent, Came   int64
	Allowed      bool
	Cached       bool
	Retry, Reset int64
	Err          string `json:",omitempty"`
}

// job is a load: as many goroutines as said, each asking for the keys in turn until the time is over, without a pause but
// for one after an error. Answers of the denial cache come by the million, so of each key's runs of them a goroutine keeps
// the first, the last and some between.
type job struct {
	URL, Prefix string
	Keys        []string
	Limit       Limit
	Goroutines  int
	For         time.Duration
}

func (j job) run(limiter *Limiter) []seen {
	ctx, cancel := context.WithTimeout(context.Background(), j.For)
	defer cancel()
	return j.runUntil(ctx, limiter)
}

func (j job) runUntil(ctx context.Context, limiter *Limiter) []seen {
	answers := make([][]seen, j.Goroutines)
	var all sync.WaitGroup
	for g := range j.Goroutines {
		all.Go(func() {
			runs := make([]struct {
				length int
				last   seen
			}, len(j.Keys))
			for i := g; ctx.Err() == nil; i++ {
				key, run := j.Keys[i%len(j.Keys)], &runs[i%len(j.Keys)]
				sent := time.Now().UnixMicro()
				d, err := limiter.Allow(context.Background(), key, j.Limit)
				a := seen{
					Key: key, Sent: sent, Came: time.Now().UnixMicro(), Allowed: d.Allowed,
					Cached: d.Source == SourceDenialCache,
					Retry:  d.RetryAfter.Microseconds(), Reset: d.ResetAfter.Microseconds(),
				}
				if err != nil {
					a.Err = err.Error()
					if !errors.Is(err, ErrUnavailable) {
						a.Err = "not ErrUnavailable: " + a.Err
					}
					time.Sleep(time.Millisecond)
				}
				if !a.Cached {
					if run.length > 1 {
						answers[g] = append(answers[g], run.last)
					}
					run.length = 0
				} else if run.length++; run.length%256 != 1 {
					run.last = a
					continue
				}
				answers[g] = append(answers[g], a)
			}
		})
	}
	all.Wait()
	var flat []seen
	for _, a := range answers {
		flat = append(flat, a...)
	}
	return flat
}

// workerEnv makes this test binary a process that does one job and prints the answers.
const workerEnv = "EXACTLIMIT_TEST_JOB"

func work() int {
	var j job
	var h hold
	if err := json.Unmarshal([]byte(os.Getenv(workerEnv)), &j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if json.Unmarshal([]byte(os.Getenv(workerEnv)), &h) == nil && h.Hold.Max > 0 {
		return h.run()
	}
	limiter, err := Connect(j.URL, WithPrefix(j.Prefix), patient, OnFailure(FailClosed))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer limiter.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	for _, a := range j.run(limiter) {
		encoder.Encode(a)
	}
	return 0
}

func inProcesses(t *testing.T, n int, j job) []seen {
	spec, err := json.Marshal(j)
	require.NoError(t, err)
	results := make([][]seen, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), workerEnv+"="+string(spec))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if !assert.NoError(t, err) || !assert.NoError(t, cmd.Start()) {
				return
			}
			for decoder := json.NewDecoder(out); ; {
				var a seen
				if decoder.Decode(&a) != nil {
					break
				}
				results[i] = append(results[i], a)
			}
			assert.NoError(t, cmd.Wait())
		})
	}
	all.Wait()
	var flat []seen
	for _, r := range results {
		flat = append(flat, r...)
	}
	return flat
}

// verify holds what callers saw against what the server recorded that it did.
func verify(t *testing.T, server *redistest.Server, j job, answers []seen) {
	t.Helper()
	recorded := server.Admissions(t)
	window := j.Limit.Window.Microseconds()
	moments := map[string][]int64{} // of each unit that each key was charged
	refunded := map[string]bool{}   // keys of which units were given back, so that their logs were not full for as long
	admitted, ids := 0, map[string]bool{}
	for _, key := range j.Keys {
		log := oracle.Log{}
		for _, a := range recorded[string(appendLogKey(nil, j.Prefix, canonicalKey(key), j.Limit))] {
			assert.False(t, ids[key+a.ID], "%s was charged twice", a.ID)
			ids[key+a.ID] = true
			if a.Refunded > 0 {
				refunded[key] = true
			}
			if a.Left() == 0 {
				continue
			}
			log.Admit(a.At, a.Left())
			for range a.Left() {
				moments[key] = append(moments[key], a.At)
			}
		}
		admitted += len(moments[key])
		slices.Sort(moments[key])
		most := log.Most(window)
		assert.LessOrEqual(t, most, j.Limit.Max, "%s: a window holds more than Max", key)
		assert.Equal(t, j.Limit.Max, most, "%s: the load never filled the window, so this shows nothing", key)
	}

	allowed, denied, cached, failed := 0, 0, 0, 0
	var unfounded []seen
	for _, a := range answers {
		switch {
		case a.Err != "":
			assert.NotContains(t, a.Err, "not ErrUnavailable")
			failed++
		case a.Allowed:
			allowed++
		default:
			denied++
			check := founded
			if a.Cached {
				cached++
				check = foundedInTheCache
			}
			if !refunded[a.Key] && !check(moments[a.Key], a, j.Limit.Max, window) {
				unfounded = append(unfounded, a)
			}
		}
	}
	assert.Empty(t, unfounded, "requests denied while there was room")
	assert.LessOrEqual(t, allowed, admitted, "callers were told of admissions that the server does not know")
	assert.LessOrEqual(t, admitted, allowed+failed, "the server charged requests that it denied")
	assert.Positive(t, cached, "the denial cache was never asked, so this shows nothing of it")
	t.Logf("%d answers: %d admitted, %d denied, of which the cache %d, %d failed", len(answers), allowed, denied, cached, failed)
}

// founded says whether there is a moment within the call at which the log was full, and full in just the way the denial
// says: with the oldest leaving after Retry and the newest after Reset.
func founded(admitted []int64, a seen, max int, window int64) bool {
	const slack = 1 // both clocks are cut to microseconds
	first := sort.Search(len(admitted), func(i int) bool { return admitted[i] >= a.Sent-slack-window+a.Retry })
	for k := first; k+max <= len(admitted); k++ {
		last := k + max - 1
		if a.Retry == 1 && admitted[last] <= a.Came+slack {
			return true // denied by the first attempt of a call that was sent again, and there has been room since
		}
		now := admitted[k] + window - a.Retry
		if now > a.Came+slack {
			return false
		}
		if admitted[last]+window-now == a.Reset && admitted[last] <= now && (k == 0 || admitted[k-1] <= now-window) {
			return true
		}
	}
	return false
}

// foundedInTheCache is founded for a denial that another call's reply told of. That call's moment is not known, so what the
// denial says is counted from its reply and may be later than the truth, by the time that the reply took, and never earlier.
func foundedInTheCache(admitted []int64, a seen, max int, window int64) bool {
	const slack = 1
	first := sort.Search(len(admitted), func(i int) bool { return admitted[i] >= a.Sent-slack-window })
	for k := first; k+max <= len(admitted); k++ {
		last := k + max - 1
		from, to := admitted[last], admitted[k]+window // full from the one until just before the other
		if from > a.Came+slack {
			return false
		}
		if to > a.Sent-slack && to > from && a.Came+slack+a.Retry >= to && a.Came+slack+a.Reset >= admitted[last]+window {
			return true
		}
	}
	return false
}

func keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	return keys
}

func TestThreeProcesses(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t, redistest.AppendOnly...)
	j := job{
		URL: server.URL(), Prefix: "p", Keys: keys(4), Goroutines: 16, For: 2 * time.Second,
		Limit: Limit{Name: "exact", Max: 50, Window: 100 * time.Millisecond},
	}
	answers := inProcesses(t, 3, j)
	require.Greater(t, len(answers), 2000)
	for _, a := range answers {
		require.Empty(t, a.Err)
	}
	verify(t, server, j, answers)
}

func TestScriptFlushInMidTraffic(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t, redistest.AppendOnly...)
	j := job{
		URL: server.URL(), Prefix: "p", Keys: keys(3), Goroutines: 16, For: time.Second,
		Limit: Limit{Name: "exact", Max: 20, Window: 50 * time.Millisecond},
	}
	limiter, err := Connect(j.URL, WithPrefix(j.Prefix), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	client := server.Client(t)
	stop := make(chan struct{})
	var flushing sync.WaitGroup
	flushing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				redistest.Do(t, client, "SCRIPT", "FLUSH")
			}
		}
	})
	answers := j.run(limiter)
	close(stop)
	flushing.Wait()
	for _, a := range answers {
		require.Empty(t, a.Err, "a flush costs nobody an error")
	}
	verify(t, server, j, answers)
}

// A server that is killed and comes back with its data has forgotten nothing, and the limiter finds it again.
func TestRestartInMidTraffic(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t, append([]string{"appendfsync always"}, redistest.AppendOnly[0], redistest.AppendOnly[2])...)
	j := job{
		URL: server.URL(), Prefix: "p", Keys: keys(3), Goroutines: 8,
		Limit: Limit{Name: "exact", Max: 20, Window: 500 * time.Millisecond},
	}
	limiter, err := Connect(j.URL, WithPrefix(j.Prefix), OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		time.Sleep(time.Second)
		server.Kill()
		if !assert.NoError(t, server.Start()) {
			return
		}
		assert.Eventually(t, func() bool {
			_, err := limiter.Allow(ctx, "found again", j.Limit)
			return err == nil
		}, 10*time.Second, 10*time.Millisecond)
		time.Sleep(time.Second)
	}()
	verify(t, server, j, j.runUntil(ctx, limiter))
}

// forgetful is a client that loses many replies, after each of which it takes some time until the call can be sent again.
type forgetful struct {
	rueidis.Client
	lost atomic.Int32
}

func (f *forgetful) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	if words[0] != "EVALSHA" || words[len(words)-1] == "probe" {
		return f.Client.Do(ctx, cmd)
	}
	if slices.Contains(words, "again") {
		time.Sleep(rand.N(50 * time.Millisecond))
	}
	result := f.Client.Do(ctx, cmd)
	if result.Error() == nil && rand.IntN(3) == 0 {
		f.lost.Add(1)
		return rueidis.NewErrorResult(io.EOF)
	}
	return result
}

// Where replies are lost all the time, each request is charged once, and none is denied that had room when it first came.
// Some of the denials are of requests that shared a question with others, of which the first attempt granted some.
func TestRepliesLostInMidTraffic(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t, redistest.AppendOnly...)
	j := job{
		URL: server.URL(), Prefix: "p", Keys: keys(2), Goroutines: 32, For: 3 * time.Second,
		Limit: Limit{Name: "exact", Max: 20, Window: time.Second}, // within half of which a busy machine sends a call again
	}
	client := &forgetful{Client: server.Client(t)}
	limiter, err := New(client, WithPrefix(j.Prefix), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	answers := j.run(limiter)
	partly := 0
	for _, a := range answers {
		if !a.Allowed && a.Retry == 1 {
			partly++
		}
	}
	assert.Positive(t, client.lost.Load())
	t.Logf("%d replies were lost; %d requests were denied by the first attempt of a call that granted others",
		client.lost.Load(), partly)
	verify(t, server, j, answers)
}
