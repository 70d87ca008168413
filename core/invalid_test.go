package core

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInvalidCalls(t *testing.T) {
	const century = 876_000 * time.Hour
	ok := PerMinute("ok", 5)
	table := []struct {
		name   string
		key    string
		cost   int
		limits []Limit
		says   string
	}{
		{"no limit", "ann", 1, nil, "no limit given"},
		{"zero limit", "ann", 1, []Limit{{}}, "has no Name"},
		{"no name", "ann", 1, []Limit{{Max: 5, Window: time.Second}}, "limit of 5 per 1s has no Name"},
		{"long name", "ann", 1, []Limit{PerMinute(strings.Repeat("n", 65), 5)}, "65 bytes long, at most 64"},
		{"newline in name", "ann", 1, []Limit{PerMinute("a\nb", 5)}, `limit "a\nb": its Name must be printable ASCII`},
		{"umlaut in name", "ann", 1, []Limit{PerMinute("größe", 5)}, "printable ASCII"},
		{"DEL in name", "ann", 1, []Limit{PerMinute("a\x7f", 5)}, "printable ASCII"},
		{"Max 0", "ann", 1, []Limit{PerMinute("login", 0)}, `limit "login": Max is 0, it must be at least 1`},
		{"Max negative", "ann", 1, []Limit{PerMinute("login", -3)}, "Max is -3"},
		{"Max beyond the fields", "ann", 1, []Limit{PerMinute("login", math.MaxInt)}, "at most 999999999999999"},
		{"no window", "ann", 1, []Limit{{Name: "login", Max: 5}}, "Window is 0s, it must be at least 1ms"},
		{"tiny window", "ann", 1, []Limit{{Name: "login", Max: 5, Window: time.Millisecond - 1}}, "at least 1ms"},
		{"negative window", "ann", 1, []Limit{{Name: "login", Max: 5, Window: -time.Second}}, "Window is -1s"},
		{"broken window", "ann", 1, []Limit{{Name: "login", Max: 5, Window: 1500 * time.Microsecond}},
			"Window is 1.5ms, it must be a whole number of milliseconds"},
		{"window over a century", "ann", 1, []Limit{{Name: "login", Max: 5, Window: century + time.Millisecond}},
			"Window is 876000h0m0.001s, it must be at most 876000h0m0s"},
		{"longest window", "ann", 1, []Limit{{Name: "login", Max: 5, Window: math.MaxInt64 / 1_000_000 * 1_000_000}},
			"it must be at most 876000h0m0s"},
		{"Ban negative", "ann", 1, []Limit{{Name: "login", Max: 5, Window: time.Second, Ban: -1}},
			`limit "login": Ban is -1ns, it must be at least 1ms, or 0 for no ban`},
		{"broken Ban", "ann", 1, []Limit{{Name: "login", Max: 5, Window: time.Second, Ban: 1}},
			"Ban is 1ns, it must be a whole number of milliseconds"},
		{"Ban over a century", "ann", 1,
			[]Limit{{Name: "login", Max: 5, Window: time.Second, Ban: century + time.Millisecond}},
			"it must be at most 876000h0m0s"},
		{"umlaut in Unit", "ann", 1, []Limit{{Name: "login", Max: 5, Window: time.Second, Unit: "Stück"}},
			`limit "login": its Unit "Stück" must be printable ASCII, such as "tokens"`},
		{"long Unit", "ann", 1, []Limit{{Name: "login", Max: 5, Window: time.Second, Unit: strings.Repeat("u", 65)}},
			"its Unit is 65 bytes long, at most 64"},
		{"a short lease", "ann", 1, []Limit{InFlight("reports", 3, time.Second-time.Millisecond)},
			`limit "reports": its lease is 999ms, it must be at least 1s, such as 30*time.Second`},
		{"no lease", "ann", 1, []Limit{InFlight("reports", 3, 0)}, "its lease is 0s"},
		{"a lease with a ban", "ann", 1,
			[]Limit{{Name: "reports", Max: 3, Window: time.Second, InFlight: true, Ban: time.Second}},
			"has no Ban and no Unit"},
		{"a broken lease", "ann", 1, []Limit{InFlight("reports", 3, time.Second+1)}, "a whole number of milliseconds"},
		{"one name, a window and a lease", "ann", 1, []Limit{ok, InFlight("ok", 5, time.Minute)},
			"give each its own name"},
		{"the second is wrong", "ann", 1, []Limit{ok, PerMinute("login", 0)}, `"login"`},
		{"one name, two Max", "ann", 1, []Limit{ok, PerMinute("ok", 6)},
			`two limits named "ok" in one call (5 per 1m0s and 6 per 1m0s)`},
		{"one name, two windows", "ann", 1, []Limit{ok, PerHour("ok", 5)}, "give each its own name"},
		{"one limit twice", "ann", 1, []Limit{ok, ok}, `two limits named "ok"`},
		{"empty key", "", 1, []Limit{ok}, "empty key"},
		{"cost 0", "ann", 0, []Limit{ok}, "cost 0: it must be at least 1"},
		{"cost negative", "ann", -1, []Limit{ok}, "cost -1"},
		{"cost above Max", "ann", 6, []Limit{ok}, `cost 6: limit "ok" never holds more than its Max of 5`},
		{"cost above the smaller Max", "ann", 4, []Limit{ok, PerHour("less", 3)}, `limit "less"`},
	}
	limiter, err := NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			d, err := limiter.AllowN(context.Background(), row.key, row.cost, row.limits...)
			assert.ErrorIs(t, err, ErrInvalid)
			assert.ErrorContains(t, err, row.says)
			assert.Zero(t, d)
		})
	}
	d, err := limiter.Peek(context.Background(), "ann", ok)
	require.NoError(t, err)
	assert.Equal(t, 5, d.Remaining, "none of these calls charged anything")

	_, err = limiter.Peek(context.Background(), "", ok)
	assert.ErrorIs(t, err, ErrInvalid)
	assert.ErrorIs(t, limiter.Reset(context.Background(), "ann"), ErrInvalid)
}

func TestInvalidConstruction(t *testing.T) {
	_, err := New(nil)
	assert.ErrorIs(t, err, ErrInvalid)
	assert.ErrorContains(t, err, "core.NewInProcess()")
	for _, prefix := range []string{"", "a{b", "a}b", "a b", "ü", strings.Repeat("p", 65)} {
		_, err := NewInProcess(WithPrefix(prefix))
		assert.ErrorIs(t, err, ErrInvalid, prefix)
	}
	for _, cache := range []struct {
		entries int
		hold    time.Duration
	}{{-1, time.Second}, {10_000_001, time.Second}, {1, 0}, {1, time.Millisecond - 1}, {1, -time.Second}} {
		_, err := NewInProcess(WithDenialCache(cache.entries, cache.hold))
		assert.ErrorIs(t, err, ErrInvalid, cache)
	}
	for says, opt := range map[string]Option{
		"failure policy 3: write core.FailLocal, core.FailOpen or core.FailClosed": OnFailure(3),
		"timeout of 0s: it must be at least 1ms":                                   WithTimeout(0),
		"timeout of -1s: it must be at least 1ms":                                  WithTimeout(-time.Second),
		"timeout of 999.999µs: it must be at least 1ms":                            WithTimeout(time.Millisecond - 1),
		"nil logger: to log nothing, use slog.New(slog.DiscardHandler)":            WithLogger(nil),
	} {
		_, err := NewInProcess(opt)
		assert.ErrorIs(t, err, ErrInvalid)
		assert.ErrorContains(t, err, says)
	}
	limiter, err := NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	assert.PanicsWithError(t,
		"exactlimit: invalid: failure policy 3: write core.FailLocal, core.FailOpen or core.FailClosed",
		func() { limiter.OnFailure(3) })
}

// Errors about a URL say what to write, and never show any of it: it holds the password, wherever that has slipped to.
func TestInvalidURLs(t *testing.T) {
	table := []struct{ url, says string }{
		{"localhost:6379", "must begin with redis://"},
		{"hunter2", "must begin with redis://"},
		{"http://ann:hunter2@localhost:6379", "must begin with redis://"},
		{"hunter2://localhost:6379", "must begin with redis://"},
		{"redis://ann:hunter2@localhost:port", "cannot be read"},
		{"redis://ann:hun/hunter2@localhost:6379", "cannot be read"},
		{"redis://ann:1/hunter2@localhost:6379", "number of a database"},
		{"redis://ann:hunter2%zz@localhost", "cannot be read"},
		{"redis://ann:hunter2@localhost:6379/cache", "number of a database"},
		{"redis://ann:hunter2@localhost:6379/-1", "number of a database"},
		{"redis://ann:hunter2@localhost:6379/0/1", "number of a database"},
		{"redis://ann:1?hunter2@localhost", "unknown parameter"},
		{"redis://localhost?dial_timeout=hunter2", "an invalid value"},
		{"redis://localhost?pool_size=3", "unknown parameter: the known ones are addr,"},
		{"redis:localhost:6379", "needs two slashes"},
		{"redis://:12#hunter2@localhost:6379", "has a # in it"},
		{"redis://localhost:6379#", "has a # in it"},
		{"redis://one,two:6379", "add others as in redis://host1:6379?addr=host2:6379"},
		{"redis://one?addr=", "an addr of the Redis URL is empty"},
		{"redis://one?db=-1", "is negative"},
		{"unix://", "names no socket"},
		{"\x00", "cannot be read"},
	}
	for _, row := range table {
		_, err := Connect(row.url)
		assert.ErrorIs(t, err, ErrInvalid, row.url)
		assert.ErrorContains(t, err, row.says, row.url)
		assert.NotContains(t, err.Error(), "hunter2", row.url)
	}
}

func TestURLs(t *testing.T) {
	option, err := parseURL("rediss://ann:p%40ss@host:7000/3?addr=other:7001")
	require.NoError(t, err)
	assert.Equal(t, []string{"host:7000", "other:7001"}, option.InitAddress)
	assert.Equal(t, []string{"ann", "p@ss"}, []string{option.Username, option.Password})
	assert.Equal(t, 3, option.SelectDB)
	assert.NotNil(t, option.TLSConfig)
	assert.True(t, option.DisableCache)
	assert.Zero(t, option.ConnLifetime, "rueidis sends commands again when it replaces a connection")
	assert.Equal(t, time.Second, option.Dialer.Timeout)

	option, err = parseURL("redis://host?master_set=main&dial_timeout=300ms")
	require.NoError(t, err)
	assert.Equal(t, "main", option.Sentinel.MasterSet)
	assert.Equal(t, 300*time.Millisecond, option.Sentinel.Dialer.Timeout)
}
