package core

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// posed is a question of a history.
type posed struct {
	number int
	verb   verb
	cost   int
	limits []Limit
	now    int64
	of     int // the number of the admission of this cost that is settled
	actual int // what it is settled to
	short  bool
}

// paid is what was charged to a log.
type paid struct {
	number int
	at     int64
	units  int
}

// naive is the logs of one key, as the oracle sees them.
type naive map[Limit]account // of limits that have only a Name and a Window

// account is what is known of a log.
type account struct {
	paid    []paid
	banEnds int64
}

func accountOf(limit Limit) Limit { return Limit{Name: limit.Name, Window: limit.Window} }

func (n naive) log(limit Limit) *oracle.Log {
	of := n[accountOf(limit)]
	log := &oracle.Log{BanEnds: of.banEnds}
	for _, p := range of.paid {
		log.Admit(p.at, p.units)
	}
	return log
}

func (n naive) change(limit Limit, change func([]paid) []paid) {
	of := n[accountOf(limit)]
	of.paid = change(slices.Clone(of.paid))
	slices.SortFunc(of.paid, func(a, b paid) int { return a.number - b.number })
	n.set(limit, of)
}

func (n naive) set(limit Limit, of account) {
	n[accountOf(limit)] = of
	if len(of.paid) == 0 && of.banEnds == 0 {
		delete(n, accountOf(limit))
	}
}

// answers checks the decision of a question, and changes the logs as the question does.
func (n naive) answers(in posed, out Decision) bool {
	switch in.verb {
	case settle:
		for _, limit := range in.limits {
			if slices.ContainsFunc(n[accountOf(limit)].paid, func(p paid) bool { return p.number == -in.of }) {
				return true // it was charged more before
			}
		}
		for _, limit := range in.limits {
			n.change(limit, func(all []paid) []paid {
				if in.actual > in.cost {
					return append(all, paid{-in.of, in.now, in.actual - in.cost})
				}
				for i := range all {
					if all[i].number == in.of && all[i].units == in.cost {
						all[i].units = in.actual
					}
				}
				return slices.DeleteFunc(all, func(p paid) bool { return p.units == 0 })
			})
		}
		return true
	case reset:
		for _, limit := range in.limits {
			n.set(limit, account{})
		}
		return true
	}
	allowed := true
	for _, limit := range in.limits {
		allowed = allowed && n.log(limit).Fits(in.now, limit.Window.Microseconds(), in.cost, limit.Max)
	}
	if allowed != out.Allowed {
		return false
	}
	for i, limit := range in.limits {
		switch {
		case in.verb == peek:
		case allowed:
			n.change(limit, func(all []paid) []paid { return append(all, paid{in.number, in.now, in.cost}) })
		default:
			log, of := n.log(limit), n[accountOf(limit)]
			log.Deny(in.now, limit.Window.Microseconds(), in.cost, limit.Max, limit.Ban.Microseconds())
			of.banEnds = log.BanEnds
			n.set(limit, of)
		}
		got, want := out.States()[i], stateOf(n.log(limit), in.now, in.cost, limit)
		if in.short && want.RetryAfter > 0 && got.RetryAfter > 0 && got.RetryAfter <= want.RetryAfter {
			want.RetryAfter = got.RetryAfter // the call has not looked far enough
		}
		if got != want {
			return false
		}
	}
	return true
}

var naively = porcupine.Model{
	Init: func() any { return naive{} },
	Step: func(state, input, output any) (bool, any) {
		next := maps.Clone(state.(naive))
		return next.answers(input.(posed), output.(Decision)), next
	},
	Equal: func(a, b any) bool { return reflect.DeepEqual(a, b) },
}

// Of the questions of one call, whatever they are, each gets the answer that it would have got alone, in some order.
// That is so with requests that become one question, and where a call leaves questions to be asked again.
func TestBatchesAgreeWithOracle(t *testing.T) {
	redis := newClockedRedis(t)
	whole := redis.onTestClock(t, lua.Decide)
	scripts := map[int]string{1000: whole, 5: withBudget(t, whole, 5), 1: withBudget(t, whole, 1)}
	run, shared, again := 0, 0, 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		budget := rapid.SampledFrom([]int{1000, 5, 1, 1}).Draw(r, "budget")
		redis.load(t, scripts[budget])
		unit := rapid.SampledFrom([]int{1, 1, min(maxMax, math.MaxInt) / 12}).Draw(r, "unit")
		var kinds [][]Limit // few, so that many ask the same
		for range 3 {
			kind := []Limit{{Name: "a", Max: rapid.IntRange(2, 12).Draw(r, "max") * unit, Window: time.Second}}
			ban := func() time.Duration {
				bans := []time.Duration{0, 0, time.Millisecond, 700 * time.Millisecond, 2 * time.Second}
				return rapid.SampledFrom(bans).Draw(r, "ban")
			}
			kind[0].Ban = ban()
			if rapid.IntRange(0, 2).Draw(r, "two") == 0 {
				most := rapid.IntRange(2, 12).Draw(r, "max") * unit
				kind = append(kind, Limit{Name: "b", Max: most, Window: time.Millisecond, Ban: ban()})
			}
			kinds = append(kinds, kind)
		}
		costs := []int{1, unit, 2 * unit}
		keys := []string{fmt.Sprint(run, "a"), fmt.Sprint(run, "b")}
		admitted := map[string][]posed{}
		decisions := map[int]Decision{}
		known := map[int]int64{} // until when the logs know that an admission is settled
		histories := map[string][]porcupine.Operation{}
		now, number := int64(0), 0
		for batch := range rapid.IntRange(1, 10).Draw(r, "batches") {
			now += rapid.SampledFrom([]int64{0, 1, 999, 1000, 1001, 500_000, 999_999, 1_000_000}).Draw(r, "step")
			var questions []*question
			var asked []posed
			var forgotten, repeated []string // keys of which logs are reset, and of which admissions are settled again
			for range rapid.IntRange(1, 9).Draw(r, "questions") {
				number++
				key := rapid.SampledFrom(keys).Draw(r, "key")
				in := posed{
					number: number, limits: rapid.SampledFrom(kinds).Draw(r, "limits"),
					cost: rapid.SampledFrom(costs).Draw(r, "cost"),
					now:  now, short: budget < 1000,
				}
				switch do := rapid.IntRange(0, 19).Draw(r, "do"); {
				case do < 2:
					in.verb, in.cost = peek, 1
				case do < 3 && !slices.Contains(repeated, key):
					in.verb, in.cost = reset, 1
				case do < 7 && len(admitted[key]) > 0:
					of := rapid.SampledFrom(admitted[key]).Draw(r, "of")
					in.verb, in.of, in.limits, in.cost = settle, of.number, of.limits, of.cost
				}
				q := redis.question(in.verb, key, in.cost, in.limits...)
				if in.verb == settle {
					d := decisions[in.of]
					costs := []int{0, 0, in.cost / 2, in.cost - 1, in.cost + 1, 2 * in.cost}
					in.actual = rapid.SampledFrom(costs).Draw(r, "actual")
					in.actual, _ = d.receipt.call.recordCost(d.receipt, in.actual) // of several, the first counts
					switch until, again := known[in.of]; {
					case !again:
						known[in.of] = now + second
					case now >= until || slices.Contains(forgotten, key):
						continue // it is not known to be settled
					default:
						repeated = append(repeated, key)
					}
					q = redis.settling(d, in.actual)
				}
				if in.verb == reset {
					forgotten = append(forgotten, key)
				}
				q.provisional = in.verb == admit && rapid.IntRange(0, 5).Draw(r, "provisional") == 0
				questions, asked = append(questions, q), append(asked, in)
			}
			if len(questions) == 0 {
				continue
			}
			again += redis.ask(r, now, questions...)
			for i, q := range questions {
				require.NoError(r, q.answer.err)
				var d Decision
				if q.verb == admit || q.verb == peek {
					d = redis.decision(r, q)
				}
				if q.verb == admit && d.Allowed {
					admitted[q.key] = append(admitted[q.key], asked[i])
					decisions[asked[i].number] = d
					if d.receipt.granted > 1 {
						shared++
					}
				}
				histories[q.key] = append(histories[q.key], porcupine.Operation{
					ClientId: i, Input: asked[i], Output: d, Call: int64(2 * batch), Return: int64(2*batch + 1),
				})
			}
			for _, q := range questions {
				for _, limit := range q.limits {
					requireMarks(r, redis.client, string(appendLogKey(nil, redis.prefix, q.key, limit)))
				}
			}
			for of := range known {
				if slices.Contains(forgotten, decisions[of].receipt.key) {
					known[of] = now
				}
			}
		}
		for key, history := range histories {
			if result := porcupine.CheckOperationsTimeout(naively, history, 20*time.Second); result != porcupine.Ok {
				for _, o := range history {
					r.Logf("%d: %+v\n\t%+v", o.Call/2, o.Input, o.Output)
				}
				r.Fatal(key, ": ", result)
			}
		}
	})
	t.Log(shared, "admissions shared an entry,", again, "questions were asked again")
	require.Positive(t, shared)
}

// A call whose reply was lost is sent again. It grants what it granted, charges nothing twice, and answers what it had
// not decided as if it came for the first time. If the first one never arrived, the second is the first.
func TestCallsSentAgain(t *testing.T) {
	redis := newClockedRedis(t)
	whole := redis.onTestClock(t, lua.Decide)
	scripts := map[int]string{1000: whole, 5: withBudget(t, whole, 5), 1: withBudget(t, whole, 1)}
	run, known := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		redis.load(t, scripts[rapid.SampledFrom([]int{1000, 5, 1}).Draw(r, "budget")])
		key := fmt.Sprint(run)
		one, two := Limit{Name: "a", Window: time.Second}, Limit{Name: "b", Window: 300 * time.Millisecond}
		var total [2]oracle.Log
		now := int64(0)
		for range rapid.IntRange(1, 8).Draw(r, "calls") {
			now += rapid.SampledFrom([]int64{0, 1, 1000, 150_000, 299_999, 300_000, 999_999, 1_000_000}).Draw(r, "step")
			// Within the shortest window.
			later := now + rapid.SampledFrom([]int64{0, 1, 1000, 150_000, 299_999}).Draw(r, "later")
			one.Max, two.Max = rapid.IntRange(3, 9).Draw(r, "max"), rapid.IntRange(3, 9).Draw(r, "max")
			kinds := [][]Limit{{one}, {two}, {one, two}, {two, one}}
			var questions []*question
			for range rapid.IntRange(1, 6).Draw(r, "questions") {
				limits := rapid.SampledFrom(kinds).Draw(r, "limits")
				questions = append(questions, redis.question(admit, key,
					rapid.IntRange(1, 3).Draw(r, "cost"), limits...))
			}
			redis.askOnce(r, now, questions...)
			granted := map[*question]bool{}
			for _, q := range questions {
				require.NoError(r, q.answer.err)
				granted[q] = !q.answer.unanswered && q.decision().Allowed
			}
			before := map[string]map[string]int64{}
			for _, limit := range []Limit{one, two} {
				before[limit.Name] = redis.entries(r, key, limit)
			}
			redis.askAgain(r, later)

			added := map[string]int64{}
			for i, q := range questions {
				require.NoError(r, q.answer.err)
				require.True(r, !granted[q] || q.decision().Allowed, "question %d had been granted", i)
				if granted[q] {
					known++
				}
				if q.decision().Allowed {
					at := later
					if granted[q] {
						at = now
					} else {
						for _, limit := range q.limits {
							added[limit.Name] += int64(q.cost)
						}
					}
					for _, limit := range q.limits {
						total[limit.Name[0]-'a'].Admit(at, q.cost)
					}
				}
			}
			for i, limit := range []Limit{one, two} {
				news := int64(0)
				for member, moment := range redis.entries(r, key, limit) {
					if old, there := before[limit.Name][member]; there {
						require.Equal(r, old, moment)
					} else {
						require.Equal(r, later, moment)
						news += weightOf(r, member)
					}
				}
				require.Equal(r, added[limit.Name], news, "what was granted only later, and nothing else")
				requireMarks(r, redis.client, redis.log(key, limit))
				require.LessOrEqual(r, total[i].Most(limit.Window.Microseconds()), 9)
			}
			now = later
		}
	})
	require.Positive(t, known)
}

// A call that says that it is sent again, and is the first to arrive, is answered as any other.
func TestSentAgainAndFirst(t *testing.T) {
	redis := newClockedRedis(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		now := int64(0)
		limits := []Limit{{Name: "a", Max: 7, Window: time.Second}, {Name: "b", Max: 5, Window: 300 * time.Millisecond}}
		for range rapid.IntRange(1, 8).Draw(r, "calls") {
			now += rapid.SampledFrom([]int64{0, 1, 150_000, 299_999, 300_000, 999_999, 1_000_000}).Draw(r, "step")
			var first, again []*question
			for range rapid.IntRange(1, 6).Draw(r, "questions") {
				limits := limits[rapid.IntRange(0, 1).Draw(r, "from"):]
				verb := rapid.SampledFrom([]verb{admit, admit, admit, peek}).Draw(r, "verb")
				cost := 1
				if verb == admit {
					cost = rapid.IntRange(1, 3).Draw(r, "cost")
				}
				first = append(first, redis.question(verb, fmt.Sprint(run, "first"), cost, limits...))
				again = append(again, redis.question(verb, fmt.Sprint(run, "again"), cost, limits...))
			}
			redis.ask(r, now, first...)
			*redis.moment = now
			keys, _ := redis.batch.Encode(again)
			none, err := redis.batch.Decode(redis.call(r, now, keys, redis.batch.Again()))
			require.NoError(r, err)
			require.Empty(r, none)
			for i := range first {
				require.Equal(r, first[i].decision(), again[i].decision())
			}
		}
	})
}

// Of requests that share a question the first attempt grants some, and its reply is lost. The second attempt, which
// comes when there is room again, grants just those: the others were denied when there was none, and are told to come
// again at once.
func TestPartlyGrantedAndSentAgain(t *testing.T) {
	redis := newClockedRedis(t, WithDenialCache(1000, time.Hour))
	limit := Limit{Name: "a", Max: 5, Window: time.Second}
	redis.allow(t, 0, "ann", 3, limit)
	var questions []*question
	for range 4 {
		questions = append(questions, redis.question(admit, "ann", 1, limit))
	}
	redis.askOnce(t, second/2, questions...)
	redis.askAgain(t, second)
	type told struct {
		allowed   bool
		remaining int
		retry     time.Duration
	}
	for place, want := range []told{
		{true, 4, 0}, {true, 3, 0}, {false, 3, time.Microsecond}, {false, 3, time.Microsecond},
	} {
		d := redis.decision(t, questions[place])
		require.Equal(t, want, told{d.Allowed, d.Remaining, d.RetryAfter}, "%d", place)
	}
	require.True(t, redis.allow(t, second+1, "ann", 3, limit).Allowed,
		"the denial cache does not remember those denials")
}

// What was granted is known to be, as long as one of its logs tells, even if another has forgotten it meanwhile: by a
// Reset, or because the second attempt comes when it has expired there.
func TestGrantedAndForgottenByOneLog(t *testing.T) {
	redis := newClockedRedis(t)
	limits := []Limit{PerMinute("a", 5), PerSecond("b", 7)}
	for key, later := range map[string]int64{"reset": second / 4, "expired": second} {
		questions := []*question{
			redis.question(admit, key, 2, limits...), redis.question(admit, key, 2, limits...),
			redis.question(admit, key, 2, limits...),
		}
		redis.askOnce(t, 0, questions...)
		keys, args := redis.batch.keys, redis.batch.Again()
		if key == "reset" {
			redistest.Do(t, redis.client, "UNLINK", redis.log(key, limits[1]))
		}
		again, err := redis.batch.Decode(redis.call(t, later, keys, args))
		require.NoError(t, err)
		require.Empty(t, again)
		for place, want := range [][2]int{{3, 5}, {1, 3}, {1, 3}} {
			d := redis.decision(t, questions[place])
			require.Equal(t, place < 2, d.Allowed, key)
			require.Equal(t, want, [2]int{d.States()[0].Remaining, d.States()[1].Remaining}, "%s: %d", key, place)
		}
		require.Equal(t, 1, redis.peek(t, later, key, limits...).Remaining, "charged once")
	}
}

// The first attempt of a call whose connection was lost may reach the server after the second, since the network goes
// on sending what a closed connection was given. It charges nothing twice, and the marks stay right.
func TestFirstAttemptComesLast(t *testing.T) {
	redis := newClockedRedis(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		limits := []Limit{{Name: "a", Max: 30, Window: time.Second},
			{Name: "b", Max: 30, Window: 300 * time.Millisecond}}
		asked := map[string][]Limit{}
		var questions []*question
		for i := range rapid.IntRange(1, 6).Draw(r, "questions") {
			key := fmt.Sprint(run, "key", i)
			asked[key] = limits[rapid.IntRange(0, 1).Draw(r, "from"):]
			cost := rapid.IntRange(1, 3).Draw(r, "cost")
			for range rapid.IntRange(1, 3).Draw(r, "requests") {
				questions = append(questions, redis.question(admit, key, cost, asked[key]...))
			}
		}
		keys, args := redis.batch.Encode(questions)
		args = slices.Clone(args)
		_, err := redis.batch.Decode(redis.call(r, 0, keys, redis.batch.Again()))
		require.NoError(r, err)
		redis.call(r, rapid.SampledFrom([]int64{0, 1, 1000}).Draw(r, "later"), keys, args)
		charged := map[string]int{}
		for _, q := range questions {
			require.True(r, redis.decision(r, q).Allowed)
			charged[q.key] += q.cost
		}
		for key, limits := range asked {
			for _, limit := range limits {
				requireMarks(r, redis.client, redis.log(key, limit))
				require.Equal(r, limit.Max-charged[key], redis.peek(r, 2000, key, limit).Remaining)
			}
		}
	})
}
