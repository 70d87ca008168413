package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// transaction parses commands that are separated by semicolons.
func transaction(commands string) (all [][][]byte) {
	for command := range strings.SplitSeq(commands, "; ") {
		all = append(all, bytes.Fields([]byte(command)))
	}
	return all
}

// assertWitnessAgrees compares what a Witness and the recorder have read of a server.
func assertWitnessAgrees(t *testing.T, server *Server) {
	t.Helper()
	bounds, want := map[string]Bound{}, map[string]Totals{}
	for log, admissions := range server.Admissions(t) {
		bounds[log] = Bound{1000, time.Hour}
		totals := Totals{}
		for _, a := range admissions {
			if added(a.ID) {
				totals.Added += a.Weight
			} else {
				totals.Admitted += a.Weight
			}
			totals.Returned += a.Refunded
		}
		want[log] = totals
	}
	witness, follower := NewWitness(bounds), server.Follow()
	defer follower.Close()
	require.NoError(t, follower.Read(witness.Apply))
	for log, totals := range want {
		assert.Equal(t, totals, witness.Totals(log), log)
	}
}

// Each row is one log, of at most 10 units in 100 µs. A clock that steps goes back by 100 µs.
func TestWitness(t *testing.T) {
	for _, table := range []struct {
		name         string
		transactions string
		says         string // of the last transaction, or ""
	}{
		{"a full window, and the next", "ZADD x 1 a*10 -9 * | ZADD x 101 b*10 -18 *", ""},
		{"the next too early", "ZADD x 1 a*10 -9 * | ZADD x 100 b", "11 units within the 100µs up to 100"},
		{"what the log has forgotten counts", "ZADD x 1 a | UNLINK x | ZADD x 100 b*10 -9 *", "11 units"},
		{"and what was cleaned too early", "ZADD x 1 a | ZREMRANGEBYSCORE x 0 1 | ZADD x 100 b*10 -9 *", "11 units"},
		{"what was given back does not count", "ZADD x 1 a*10 -9 * | ZREM x a*10; ZREM x * | ZADD x 2 b*10 -9 *", ""},
		{"a part that was given back",
			"ZADD x 1 a*9 -8 * | ZREM x a*9; ZADD x 1 a:0*3 1 a:2*3 -4 * | ZADD x 2 b*4 -7 * | ZADD x 3 c", "11 units"},
		{"a part that was settled",
			"ZADD x 1 a*9 -8 * | ZREM x a*9; ZADD x 1 a:0*3 1 a:2*3 1 a:1=*2 -5 * | ZADD x 2 b*2 -6 * | ZADD x 3 c",
			"11 units"},
		{"a request that has cost more", "ZADD x 1 a*10 -9 * | ZADD x 2 a+*5 -13 * | ZADD x 101 b*5 -17 *", ""},
		{"which then counts", "ZADD x 1 a*10 -9 * | ZADD x 2 a+*5 -13 * | ZADD x 101 b*6 -18 *", "11 units"},
		{"moved entries", "ZADD x 150 a*9 -8 * | back | ZADD x XX 60 a*9", ""},
		{"a step back", "ZADD x 150 a*9 -8 * | back | ZADD x 60 b | ZADD x XX 70 a*9 | ZADD x 71 c", "11 units"},
		{"a step back, and later", "ZADD x 150 a*9 -8 * | back | ZADD x 60 b | ZADD x XX 70 a*9 | " +
			"ZREMRANGEBYSCORE x 0 70; ZREM x *; ZADD x 170 d*10 -9 *", ""},
		{"cleaning by rank", "ZADD x 1 a 2 b*2 -1 * | ZREMRANGEBYRANK x 1 1 | ZREMRANGEBYRANK x 1 1; ZREM x *", ""},
		{"a weight lost in cleaning", "ZADD x 1 a 2 b*2 -1 * | ZREMRANGEBYRANK x 1 2", "the mark stands for 1"},
		{"charged twice", "ZADD x 1 a | UNLINK x | ZADD x 100 a", "a was charged at 1 and again at 100"},
		{"and with a window between", "ZADD x 1 a | UNLINK x | ZADD x 101 a | ZADD x 102 b", ""},
		{"a ban", "ZADD x 1 a -50 !49 | ZADD x 50 b", ""},
		{"admitted during a ban", "ZADD x 1 a -50 !49 | ZADD x 49 b", "b was admitted at 49, during a ban until 50"},
		{"an id added twice", "ZADD x 1 a | ZADD x 101 b | ZADD x 102 a", "an id added twice: a"},
		{"no part", "ZADD x 1 a:1", "is not a part of an entry that is removed"},
		{"too large a part", "ZADD x 1 a*2 -1 * | ZREM x a*2; ZADD x 1 a:0*2", "the parts of a weigh no less"},
		{"put off", "ZADD x 1 a | ZADD x XX 2 a", "a is put off to 2"},
		{"no whole number", "ZADD x 1.5 a", "is not a whole number"},
		{"a mark with the score of an entry", "ZADD x -1 a", "a with a score of -1"},
		{"not a script's option", "ZADD x GT 1 a", "an option other than XX"},
		{"a range from the middle", "ZADD x 1 a 2 b 3 c | ZREMRANGEBYRANK x 1 1", "does not begin with the first"},
		{"another log", "ZADD y 1 a", "y is no log"},
		{"another command", "SET x a", "the script never writes"},
	} {
		t.Run(table.name, func(t *testing.T) {
			w := NewWitness(map[string]Bound{"x": {10, 100 * time.Microsecond}})
			var err error
			for commands := range strings.SplitSeq(table.transactions, " | ") {
				require.NoError(t, err)
				if commands == "back" {
					w.StepBack(100 * time.Microsecond)
					continue
				}
				err = w.Apply(transaction(commands))
			}
			if table.says == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, table.says)
			}
		})
	}
}

// A Witness forgets an admission whose window has ended and whose entries are gone.
func TestWitnessForgets(t *testing.T) {
	w := NewWitness(map[string]Bound{"x": {10, 100 * time.Microsecond}})
	for i := range 10_000 {
		at := 10 * i
		require.NoError(t, w.Apply(transaction(fmt.Sprintf("ZADD x %d a%d", at, i))))
		if i%7 == 0 && i > 10 {
			require.NoError(t, w.Apply(transaction(fmt.Sprintf("ZREMRANGEBYSCORE x 0 %d", at-100))))
		}
		assert.LessOrEqual(t, w.Kept(), 20)
		assert.Less(t, len(w.accounts["x"].entries), 50)
	}
	assert.Equal(t, Worst{"x", 10, 10}, w.Worst())
	assert.Equal(t, Totals{Admitted: 10_000}, w.Totals("x"))
}

// A Follower reads each complete transaction once, across rewrites and restarts.
func TestFollower(t *testing.T) {
	server := Start(t, Followed...)
	follower := server.Follow()
	defer follower.Close()
	var read []string
	next := func() []string {
		read = nil
		require.NoError(t, follower.Read(func(transaction [][][]byte) error {
			read = append(read, fmt.Sprintf("%s", transaction))
			return nil
		}))
		return read
	}
	require.Empty(t, next())
	client := server.Single(t)
	do := func(words string) { Do(t, client, strings.Fields(words)...) }
	do("ZADD x 1 a")
	do("MULTI")
	do("ZADD x 2 b")
	do("ZADD x 3 c")
	do("EXEC")
	assert.Equal(t, []string{"[[SELECT 0]]", "[[ZADD x 1 a]]", "[[ZADD x 2 b] [ZADD x 3 c]]"}, next())
	assert.Empty(t, next())
	large := strings.Repeat("large", 50_000)
	do("ZADD x 4 " + large)
	assert.Equal(t, []string{"[[ZADD x 4 " + large + "]]"}, next())

	do("ZADD x 5 d")
	do("BGREWRITEAOF")
	do("ZADD x 6 e")
	assert.Equal(t, []string{"[[ZADD x 5 d]]", "[[SELECT 0]]", "[[ZADD x 6 e]]"}, next())
	assert.Eventually(t, func() bool {
		info, err := client.Do(context.Background(), client.B().Info().Section("persistence").Build()).ToString()
		return err == nil && strings.Contains(info, "aof_rewrite_in_progress:0")
	}, 10*time.Second, 10*time.Millisecond)
	do("UNLINK x") // and with it the large member
	do("BGREWRITEAOF")
	do("ZADD x 7 f")
	assert.Equal(t, []string{"[[UNLINK x]]", "[[SELECT 0]]", "[[ZADD x 7 f]]"}, next())
	assert.Eventually(t, func() bool {
		size, err := follower.Size()
		return err == nil && size < 10_000
	}, 10*time.Second, 10*time.Millisecond, "what was replaced is deleted")

	server.Kill()
	require.NoError(t, appendTo(follower.name(3), "*1\r\n$5\r\nMULTI\r\n*2\r\n$6\r\nUNLINK\r\n$1\r\nx\r\n"))
	assert.Empty(t, next(), "half a transaction")
	require.NoError(t, server.Start())
	client = server.Single(t)
	do("ZADD x 8 g")
	assert.Equal(t, []string{"[[SELECT 0]]", "[[ZADD x 8 g]]"}, next())

	server.Kill()
	require.NoError(t, appendTo(follower.name(3), "*x\r\n"))
	assert.ErrorContains(t, follower.Read(func([][][]byte) error { return nil }), "invalid syntax")
}

func appendTo(name, text string) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
