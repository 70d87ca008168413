package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/lua"
)

// decide calls the script on logs with the words of its arguments.
func decide(t *testing.T, client rueidis.Client, keys []string, args string) {
	t.Helper()
	words := strings.Fields(args)
	cmd := client.B().Eval().Script(lua.Decide).Numkeys(int64(len(keys))).Key(keys...).Arg(words...).Build()
	answers, err := client.Do(context.Background(), cmd).ToArray()
	require.NoError(t, err)
	for _, answer := range answers {
		text, err := answer.ToString()
		require.Error(t, err, "a question failed: %s", text)
	}
}

// told returns what a record has of a log, without times.
func told(record Record, log string) (told []string) {
	for _, a := range record[log] {
		text := fmt.Sprintf("%s weighs %d, %d back %s", a.ID, a.Weight, a.Refunded, a.Gone)
		told = append(told, strings.TrimSpace(text))
	}
	return told
}

// The recorder keeps a ban, also after its entries have expired, and after it was lifted.
func TestBansOfTheScript(t *testing.T) {
	server := Start(t, AppendOnly...)
	client := server.Client(t)
	ban := func(id string) {
		decide(t, client, []string{"x"}, id+" admit 1 1 2 1 0 1 100000 3600000000")
	}
	ban("a")
	bans := server.Bans(t)["x"]
	require.Len(t, bans, 1)
	assert.Equal(t, server.Admissions(t)["x"][0].At, bans[0].From)
	assert.Equal(t, bans[0].From+3_600_000_000, bans[0].To)
	time.Sleep(110 * time.Millisecond)
	ban("b")
	assert.Equal(t, bans, server.Bans(t)["x"], "nothing prolongs it")
	decide(t, client, []string{"x"}, "c reset 1")
	assert.Equal(t, bans, server.Bans(t)["x"])
	ban("d")
	assert.Len(t, server.Bans(t)["x"], 2)
	assert.Equal(t, []string{"a.1 weighs 1, 0 back ZREMRANGEBYSCORE", "d.1 weighs 1, 0 back"},
		told(server.Admissions(t), "x"))
}

// The recorder and the Witness read what the script writes. In the arguments, 1h is an hour.
func TestRecordsOfTheScript(t *testing.T) {
	for _, table := range []struct {
		name  string
		calls []string // the arguments; "sleep" takes half a second
		want  []string // of the log x
	}{
		{
			"admissions of one unit",
			[]string{"a one 1 9 1h", "b one 1 9 1h"},
			[]string{"a.1 weighs 1, 0 back", "b.1 weighs 1, 0 back"},
		},
		{
			"of more",
			[]string{"a admit 1 1 1 5 0 9 1h 0", "b one 1 9 1h", "c admit 1 1 1 3 1 9 1h 0"},
			[]string{"a.1 weighs 5, 0 back", "b.1 weighs 1, 0 back", "c.1 weighs 3, 0 back"},
		},
		{
			"a denial",
			[]string{"a admit 1 1 1 5 0 9 1h 0", "b admit 1 1 1 5 0 9 1h 0"},
			[]string{"a.1 weighs 5, 0 back"},
		},
		{
			"some of a batch",
			[]string{"a admit 1 1 5 2 0 9 1h 0"},
			[]string{"a.1 weighs 8, 0 back"},
		},
		{
			"a retry",
			[]string{"a admit 1 1 5 2 0 9 1h 0", "a again admit 1 1 5 2 0 9 1h 0"},
			[]string{"a.1 weighs 8, 0 back"},
		},
		{
			"a refund of all",
			[]string{"a admit 1 1 1 5 0 9 1h 0", "b settle 1 a.1 1 0 5 0 1h"},
			[]string{"a.1 weighs 5, 5 back ZREM"},
		},
		{
			"refunds of parts",
			[]string{
				"a admit 1 1 4 2 0 9 1h 0", "b settle 1 a.1 4 2 2 0 1h", "b settle 1 a.1 4 2 2 0 1h",
				"b settle 1 a.1 4 0 2 0 1h",
			},
			[]string{"a.1 weighs 8, 4 back"},
		},
		{
			"refunds of all parts",
			[]string{"a admit 1 1 2 1 0 9 1h 0", "b settle 1 a.1 2 1 1 0 1h", "b settle 1 a.1 2 0 1 0 1h"},
			[]string{"a.1 weighs 2, 2 back ZREM"},
		},
		{
			"settled to less",
			[]string{"a admit 1 1 1 5 0 9 1h 0", "b settle 1 a.1 1 0 5 2 1h", "b settle 1 a.1 1 0 5 2 1h"},
			[]string{"a.1 weighs 5, 3 back"},
		},
		{
			"parts settled to less",
			[]string{
				"a admit 1 1 4 2 0 9 1h 0", "b settle 1 a.1 4 2 2 1 1h", "b settle 1 a.1 4 0 2 1 1h",
				"b settle 1 a.1 4 1 2 0 1h",
			},
			[]string{"a.1 weighs 8, 4 back"},
		},
		{
			"settled to more",
			[]string{
				"a admit 1 1 1 5 0 9 1h 0", "b settle 1 a.1 1 0 5 20 1h", "b settle 1 a.1 1 0 5 20 1h",
				"c admit 1 1 1 5 0 9 1h 0", "d admit 1 1 1 5 0 25 1h 0",
			},
			[]string{"a.1 weighs 5, 0 back", "a.1+ weighs 15, 0 back", "d.1 weighs 5, 0 back"},
		},
		{
			"parts settled to more",
			[]string{"a admit 1 1 4 2 0 9 1h 0", "b settle 1 a.1 4 2 2 3 1h", "b settle 1 a.1 4 0 2 1 1h"},
			[]string{"a.1 weighs 8, 1 back", "a.1:2+ weighs 1, 0 back"},
		},
		{
			"cleaning of units",
			[]string{"a one 1 9 1h", "b one 1 9 1h", "sleep", "c one 1 9 400000", "d one 1 9 1h"},
			[]string{
				"a.1 weighs 1, 0 back ZREMRANGEBYSCORE", "b.1 weighs 1, 0 back ZREMRANGEBYSCORE",
				"c.1 weighs 1, 0 back", "d.1 weighs 1, 0 back",
			},
		},
		{
			"cleaning of weights",
			[]string{
				"a admit 1 1 1 5 0 9 1h 0", "sleep", "b admit 1 1 1 3 1 9 1h 0", "c admit 1 1 1 2 0 9 400000 0",
			},
			[]string{"a.1 weighs 5, 0 back ZREMRANGEBYSCORE", "b.1 weighs 3, 0 back", "c.1 weighs 2, 0 back"},
		},
		{
			"cleaning of all",
			[]string{"a admit 1 1 1 5 1 9 1h 0", "sleep", "b peek 1 1 9 400000 0"},
			[]string{"a.1 weighs 5, 0 back UNLINK"},
		},
		{
			"a reset",
			[]string{"a admit 1 1 1 5 0 9 1h 0", "b reset 1"},
			[]string{"a.1 weighs 5, 0 back UNLINK"},
		},
		{
			"a peek and a probe",
			[]string{"a one 1 9 1h", "b peek 1 1 9 1h 0"},
			[]string{"a.1 weighs 1, 0 back"},
		},
	} {
		t.Run(table.name, func(t *testing.T) {
			server := Start(t, Followed...)
			client := server.Client(t)
			for _, args := range table.calls {
				if args == "sleep" {
					time.Sleep(500 * time.Millisecond)
					continue
				}
				decide(t, client, []string{"x"}, strings.ReplaceAll(args, "1h", "3600000000"))
			}
			assert.Equal(t, table.want, told(server.Admissions(t), "x"))
			assertWitnessAgrees(t, server)
		})
	}
}

// The recorder follows a log that moves to another server, in every encoding of a sorted set.
func TestRecordsOfMovedLogs(t *testing.T) {
	Long(t)
	from, to := Start(t, AppendOnly...), Start(t, AppendOnly...)
	host, port, _ := strings.Cut(to.Addr, ":")
	const limit = " 1000000 3600000000"
	decide(t, from.Client(t), []string{"small"}, "a admit 1 1 4 30000 1"+limit+" 0")
	decide(t, from.Client(t), []string{"small"}, "b settle 1 a.1 4 2 30000 0 3600000000")
	long := strings.Repeat("long", 40)
	for i := range 200 {
		decide(t, from.Client(t), []string{"large"}, fmt.Sprint(i, long, " admit 1 1 1 ", i+1, " 0", limit, " 0"))
	}
	decide(t, from.Client(t), []string{"few"}, long+" admit 1 1 1 1000000 0"+limit+" 0")
	logs := []string{"small", "large", "few"}
	for _, log := range logs {
		Do(t, from.Client(t), "MIGRATE", host, port, log, "0", "5000")
		decide(t, to.Client(t), []string{log}, "there one 1"+limit)
	}
	decide(t, to.Client(t), []string{"small"}, "d settle 1 a.1 4 1 30000 0 3600000000")

	assert.Equal(t, []string{"a.1 weighs 120000, 30000 back DEL"}, told(from.Admissions(t), "small"))
	assert.Equal(t, []string{"a.1 weighs 90000, 30000 back", "there.1 weighs 1, 0 back"},
		told(to.Admissions(t), "small"))
	merged := Merge(from.Admissions(t), to.Admissions(t))
	assert.Equal(t, []string{"a.1 weighs 120000, 60000 back DEL", "there.1 weighs 1, 0 back"}, told(merged, "small"))
	assert.Len(t, merged["large"], 201)
	assert.Equal(t, 200*201/2+1, Units(merged["large"]))
	assert.Equal(t, []string{long + ".1 weighs 1000000, 0 back DEL"}, told(merged, "few"))

	// And back.
	host, port, _ = strings.Cut(from.Addr, ":")
	for _, log := range logs {
		Do(t, to.Client(t), "MIGRATE", host, port, log, "0", "5000")
	}
	want := []string{"a.1 weighs 120000, 30000 back", "there.1 weighs 1, 0 back"}
	assert.Equal(t, want, told(from.Admissions(t), "small"))
	assert.Equal(t, Merge(merged, from.Admissions(t)).Units(), merged.Units())
}

// A copy of a log, with which a replica or a rewritten file begins, has what is left of its admissions.
func TestRecordsOfCopiedLogs(t *testing.T) {
	server := Start(t, AppendOnly...)
	client := server.Client(t)
	decide(t, client, []string{"x"}, "a admit 1 1 4 30 1 1000 3600000000 0")
	decide(t, client, []string{"x"}, "b settle 1 a.1 4 2 30 0 3600000000")
	replica := StartReplica(t, server, AppendOnly...)
	decide(t, client, []string{"x"}, "c settle 1 a.1 4 3 30 0 3600000000")
	decide(t, client, []string{"x"}, "d admit 1 1 1 7 0 1000 3600000000 0")
	want := []string{"a.1 weighs 90, 30 back", "d.1 weighs 7, 0 back"}
	assert.Eventually(t, func() bool {
		return slices.Equal(told(replica.Admissions(t), "x"), want)
	}, 10*time.Second, 10*time.Millisecond)
	merged := Merge(server.Admissions(t), replica.Admissions(t))
	assert.Equal(t, []string{"a.1 weighs 120, 60 back", "d.1 weighs 7, 0 back"}, told(merged, "x"))
}

// What the right script never writes is an error, which says what is wrong.
func TestRecordsAreStrict(t *testing.T) {
	Long(t)
	const before = "ZADD log 1 one 2 five*5 -4 * -1 ~"
	for _, table := range []struct {
		transaction []string // after before
		says        string   // nothing if it is right
	}{
		{[]string{"ZREMRANGEBYSCORE log 0 1"}, ""},
		{[]string{"ZREMRANGEBYSCORE log 0 2", "ZREM log *"}, ""},
		{[]string{"ZREMRANGEBYRANK log 2 2"}, ""},
		{[]string{"ZREMRANGEBYRANK log 2 3", "ZREM log *"}, ""},
		{[]string{"ZREM log five*5", "ZADD log 2 five:0 2 five:4*3", "ZADD log -2 *"}, ""},
		{[]string{"ZADD log XX 1 five*5"}, ""},
		{[]string{"ZREM log five*4"}, ""},
		{[]string{"UNLINK log"}, ""},
		{[]string{"SET log no"}, ""},

		{[]string{"ZADD log 1.5 a"}, "not a whole number"},
		{[]string{"ZADD log GT 3 a"}, "an option other than XX"},
		{[]string{"ZADD log 3 one"}, "an id added twice: one"},
		{[]string{"ZADD log 3 one*2 -5 *"}, "an id added twice: one*2"},
		{[]string{"ZADD log 3 five"}, "an id added twice: five"},
		{[]string{"ZADD log XX 3 one"}, "one stands at 1, and was put off to 3"},
		{[]string{"ZADD log -1 a"}, "a with a score of -1"},
		{[]string{"ZADD log 4 *"}, "* with a score of 4"},
		{[]string{"ZADD log 3 a*1"}, "no weight|not the weight"},
		{[]string{"ZADD log 3 a*x"}, "not the weight"},
		{[]string{"ZREMRANGEBYSCORE log 0.5 inf"}, "a range"},
		{[]string{"ZREMRANGEBYRANK log -1 -1"}, "a range of ranks"},

		{[]string{"ZADD log -5000000 !1000"}, ""},
		{[]string{"ZADD log 5000000 !1000"}, "!1000 with a score of 5000000"},
		{[]string{"ZADD log -5000000 !"}, "! is not the mark of a ban"},
		{[]string{"ZADD log 3 four*4"}, "log: the mark stands for 4 units and should stand for 7"},
		{[]string{"ZREMRANGEBYSCORE log 0 2"}, "log: the mark stands for 4 units and should stand for 0"},
		{[]string{"ZREMRANGEBYRANK log 2 3"}, "stands for 4 units and should stand for 0"},
		{[]string{"ZREMRANGEBYSCORE log -inf 1"}, "stands for 0 units and should stand for 4"},
		{[]string{"ZREMRANGEBYRANK log 0 1"}, "stands for 0 units and should stand for 4"},
		{[]string{"ZREM log *"}, "stands for 0 units and should stand for 4"},
		{[]string{"ZADD log -5 *"}, "stands for 5 units and should stand for 4"},
		{[]string{"ZREM log five*5"}, "stands for 4 units and should stand for 0"},
		{[]string{"ZREM log five*5", "ZADD log 2 five:0 2 five:4*3"}, "stands for 4 units and should stand for 2"},
		{[]string{"ZREM log five*5", "ZADD log 3 five:0 -4 *"}, "is not a part of an entry"},
		{[]string{"ZADD log 2 five:0"}, "is not a part of an entry"},
		{[]string{"ZREM log five*5", "ZADD log 2 five=*2", "ZADD log -1 *"}, ""},
		{[]string{"ZREM log five*5", "ZADD log 2 five=*5"}, "the parts of five weigh no less"},
		{[]string{"ZADD log 2 five="}, "is not a part of an entry"},
		{[]string{"ZADD log 7 five+*3 -6 *"}, ""},
		{[]string{"ZADD log 7 five+ 8 five+"}, "an id added twice: five"},
		{[]string{"ZREM log five*5", "ZADD log 2 five:0*2 2 five:1*3 -3 *"}, "the parts of five weigh no less"},
	} {
		server := Start(t, AppendOnly...)
		client := server.Single(t)
		for _, transaction := range [][]string{{before}, table.transaction} {
			all := "MULTI\n" + strings.Join(transaction, "\n") + "\nEXEC"
			for line := range strings.Lines(all) {
				Do(t, client, strings.Fields(line)...)
			}
		}
		_, err := server.ReadRecords()
		if table.says == "" {
			assert.NoError(t, err, "%q", table.transaction)
			continue
		}
		if assert.Error(t, err, "%q", table.transaction) {
			assert.Regexp(t, strings.ReplaceAll(table.says, "*", `\*`), err.Error())
		}
	}
	_, err := Start(t).ReadRecords()
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// An entry that is moved is the same admission, and its record says where it stands.
func TestRecordsOfMovedEntries(t *testing.T) {
	server := Start(t, AppendOnly...)
	client := server.Client(t)
	decide(t, client, []string{"x"}, "a admit 1 1 1 7 0 9 3600000000 0")
	at := server.Admissions(t)["x"][0].At
	Do(t, client, "ZADD", "x", "XX", fmt.Sprint(at-1000), "a.1*7")
	want := Record{"x": {{At: at, ID: "a.1", Weight: 7, Moved: at - 1000, Addr: server.Addr}}}
	assert.Equal(t, want, server.Admissions(t))
	assert.Equal(t, at-1000, server.Admissions(t)["x"][0].Stands())
}

// The mark has to be right when the transaction ends, and not before.
func TestRecordsOfWrongFiles(t *testing.T) {
	for _, table := range []struct {
		commands string
		says     string
	}{
		{"MULTI; ZADD log 1 a*3; ZADD log -2 *; EXEC", ""},
		{"ZADD log 1 a*3; ZADD log -2 *", "the mark stands for 0 units and should stand for 2"},
		{
			"MULTI; ZADD log 1 a*3; ZADD log -2 *; EXEC; ZADD log 2 b*2",
			"the mark stands for 2 units and should stand for 3",
		},
		{"RESTORE log 0 short", "a dump that cannot be read"},
		{"RESTORE log 0 \x00\x00xxxxxxxxxx", "a dump of type 0, which is not a sorted set"},
	} {
		server := Start(t, AppendOnly...)
		server.Kill()
		files, err := filepath.Glob(filepath.Join(server.dir, "appendonlydir", "*.incr.aof"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		var text strings.Builder
		for command := range strings.SplitSeq(table.commands, "; ") {
			words := strings.Fields(command)
			text.WriteString("*" + strconv.Itoa(len(words)) + "\r\n")
			for _, word := range words {
				fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(word), word)
			}
		}
		require.NoError(t, os.WriteFile(files[0], []byte(text.String()), 0o600))
		_, err = server.ReadRecords()
		if table.says == "" {
			assert.NoError(t, err, table.commands)
		} else {
			assert.ErrorContains(t, err, table.says, table.commands)
		}
	}
}
