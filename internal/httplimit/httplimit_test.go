package httplimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// century is the longest window that a limit may have.
const century = 100 * 365 * 24 * time.Hour

func TestFields(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	state := func(remaining int, retry, reset time.Duration) core.State {
		return core.State{Remaining: remaining, RetryAfter: retry, ResetAfter: reset}
	}
	for _, row := range []struct {
		name    string
		limit   core.Limit
		allowed bool
		state   core.State
		policy  string
		field   string
		retry   string
	}{
		{"room", core.PerMinute("a", 9), true, state(8, 0, time.Minute), `"a";q=9;w=60`, `"a";r=8`, ""},
		{"last", core.PerMinute("a", 9), true, state(0, ms(31_001), time.Minute), `"a";q=9;w=60`, `"a";r=0;t=32`, ""},
		{"denied", core.PerMinute("a", 9), false, state(0, ms(31_000), ms(59_000)), `"a";q=9;w=60`,
			`"a";r=0;t=31`, "31"},
		{"a microsecond", core.PerMinute("a", 9), false, state(0, time.Microsecond, ms(1)),
			`"a";q=9;w=60`, `"a";r=0;t=1`, "1"},
		{"a microsecond more", core.PerMinute("a", 9), false, state(0, time.Second+time.Microsecond, ms(9000)),
			`"a";q=9;w=60`, `"a";r=0;t=2`, "2"},
		{"short window", core.Limit{Name: "a", Max: 1, Window: ms(1)}, false, state(0, ms(1), ms(1)),
			`"a";q=1;w=1`, `"a";r=0;t=1`, "1"},
		{"odd window", core.Limit{Name: "a", Max: 1, Window: ms(1001)}, true, state(0, ms(1001), ms(1001)),
			`"a";q=1;w=2`, `"a";r=0;t=2`, ""},
		{"longest window", core.Limit{Name: "a", Max: 1, Window: century}, false, state(0, century, century),
			`"a";q=1;w=3153600000`, `"a";r=0;t=3153600000`, "3153600000"},
		{"denied by others", core.PerMinute("a", 9), false, state(7, 0, time.Minute), `"a";q=9;w=60`, `"a";r=7`, ""},
		{"awkward name", core.PerMinute(`\"`, 2), true, state(1, 0, time.Minute), `"\\\"";q=2;w=60`, `"\\\"";r=1`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := NewPolicy([]core.Limit{row.limit})
			require.NoError(t, err)
			row.state.Limit = row.limit
			d := core.Decision{Allowed: row.allowed, State: row.state}
			h := http.Header{}
			retryAfter, duplicate := p.setFields(h, &d)
			assert.Equal(t, []string{row.policy}, h.Values("RateLimit-Policy"))
			assert.Equal(t, []string{row.field}, h.Values("RateLimit"))
			assert.Empty(t, duplicate)
			if row.retry != "" {
				setRetryAfter(h, retryAfter)
				assert.Equal(t, row.retry, h.Get("Retry-After"))
			}
		})
	}
}

// A policy does not change if the caller changes the slice of limits.
func TestFixedPolicyCopiesLimits(t *testing.T) {
	limits := []core.Limit{core.PerMinute("a", 1)}
	policy := FixedPolicy[int](limits)
	limits[0].Max = 1000
	p, err := policy(0)
	require.NoError(t, err)
	assert.Equal(t, 1, p.limits[0].Max)
}

// An error of a key function is logged, unless the reason is a missing or malformed credential of the client.
func TestKeyErrors(t *testing.T) {
	secret := errors.New("postgres://admin:hunter2@db is down")
	for _, row := range []struct {
		err    error
		status int
		logged bool
	}{
		{nil, 401, false},
		{&keyError{status: 401, detail: "The X-API-Key header is missing."}, 401, false},
		{secret, 401, true},
		{configErrorf("no address"), 500, true},
	} {
		log := captureLog(t)
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "", row.err }, nil)
		w := httptest.NewRecorder()
		_, refusal := gate.Check(0, &http.Request{}, w.Header(), FixedPolicy[int]([]core.Limit{core.PerMinute("a", 1)}))
		refusal.Write(w)
		assert.Equal(t, row.status, w.Code)
		assert.Equal(t, row.logged, log.Len() > 0)
		assert.NotContains(t, w.Body.String(), "hunter2")
	}
}

// With NoFields, neither the fields nor the body of a response name a limit, in a denial and in an outage.
func TestNoFieldsNamesNoLimits(t *testing.T) {
	policy := FixedPolicy[int]([]core.Limit{core.PerHour("hush-a", 1), core.PerHour("hush-b", 1)})
	for _, plainText := range []bool{false, true} {
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, nil)
		gate.NoFields, gate.PlainText = true, plainText
		_, refusal := gate.Check(0, &http.Request{}, http.Header{}, policy)
		require.Nil(t, refusal)
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			w := httptest.NewRecorder()
			_, refusal := gate.Check(0, &http.Request{}, w.Header(), policy)
			require.NotNil(t, refusal)
			refusal.Write(w)
			assert.Equal(t, status, w.Code)
			assert.NotEmpty(t, w.Header().Get("Retry-After"))
			assert.NotContains(t, fmt.Sprint(w.Header(), w.Body), "hush")
			assert.NotContains(t, w.Body.String(), "violated-policies")
			limiter.Close() // from here on there are no decisions
		}
	}
}

// A request without a decision is logged, unless its client has left.
func TestLogOfUndecidedRequests(t *testing.T) {
	policy := FixedPolicy[int]([]core.Limit{core.PerMinute("a", 1)})

	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	for _, row := range []struct {
		name   string
		ctx    context.Context
		logged bool
	}{
		{"an outage", context.Background(), true},
		{"a deadline of the service", expired, true},
		{"a client that left", canceled, false},
	} {
		log := captureLog(t)
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, nil)
		w := httptest.NewRecorder()
		_, refusal := gate.Check(0, new(http.Request).WithContext(row.ctx), w.Header(), policy)
		require.NotNil(t, refusal)
		assert.False(t, refusal.Denied())
		assert.Equal(t, row.logged, log.Len() > 0, row.name)
		refusal.Write(w)
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
	}
}

// A charge is given back if the status is known and does not count, and the client was connected until then.
func TestSettle(t *testing.T) {
	server, log := redistest.Start(t), captureLog(t)
	limiter, err := core.Connect(server.URL(), core.WithTimeout(time.Minute))
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerMinute("a", 9)
	policy := FixedPolicy[int]([]core.Limit{limit})
	for _, row := range []struct {
		name   string
		status int
		leaves string // when the client leaves, relative to the beginning of the response
		kept   bool
	}{
		{"it counts", 401, "", true},
		{"it does not", 200, "", false},
		{"another protocol", 101, "", false},
		{"an interim response", 100, "", true},
		{"early hints", 103, "", true},
		{"no status", 0, "", true},
		{"the client left before the response", 200, "before", true},
		{"the client left during the response", 200, "within", false},
		{"the deadline passed during the response", 200, "late", true},
		{"the client leaves during the refund", 200, "during", false},
	} {
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, func(int) string { return "" })
		ctx, leave := context.WithCancel(t.Context())
		gate.CountOnly(func(status int) bool {
			if row.leaves == "during" { // while Redis does not respond
				require.NoError(t, server.Pause())
				time.AfterFunc(100*time.Millisecond, func() { server.Resume() })
				leave()
			}
			return status == 401
		})
		d, refusal := gate.Check(0, new(http.Request).WithContext(ctx), http.Header{}, policy)
		require.Nil(t, refusal)
		switch row.leaves {
		case "before", "within":
			leave()
		case "late":
			ctx, leave = context.WithTimeout(ctx, 0)
		}
		gate.Settle(ctx, 0, d, row.status, row.leaves == "within" || row.leaves == "late")
		leave()
		left, err := limiter.Peek(t.Context(), "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, row.kept, left.Remaining < limit.Max, row.name)
		require.NoError(t, limiter.Reset(t.Context(), "ann", limit))
	}
	assert.Empty(t, log.String(), "no refund failed")
}

// A request that counts costs what CostAfter returns, whether or not its client has left. CostAfter is called once.
func TestCostAfter(t *testing.T) {
	log := new(bytes.Buffer)
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerMinute("a", 100)
	policy := FixedPolicy[int]([]core.Limit{limit})
	const reserved = 10
	for _, row := range []struct {
		name    string
		actual  int
		count   bool // with CountOnly
		status  int
		left    bool // whether the client has left
		charged int
		logged  string
	}{
		{"less", 3, false, 200, false, 3, ""},
		{"nothing", 0, false, 200, false, 0, ""},
		{"equal", 10, false, 200, false, 10, ""},
		{"more", 30, false, 500, false, 30, ""},
		{"beyond Max", 300, false, 200, false, 100, ""},
		{"no status", 3, false, 0, false, 3, ""},
		{"the client has left", 30, false, 200, true, 30, ""},
		{"it counts", 3, true, 401, false, 3, ""},
		{"it does not", 3, true, 200, false, 0, ""},
		{"unknown whether it counts", 3, true, 0, false, 3, ""},
		{"unknown because the client has left", 30, true, 200, true, 30, ""},
		{"negative", -1, false, 200, false, 10, "CostAfter returned -1: it must return at least 0"},
		{"negative, but it does not count", -1, true, 200, false, 0, ""},
	} {
		calls, key := 0, func(int) (string, error) { return "ann", nil }
		gate := NewGate(limiter, key, func(int) string { return "" })
		gate.Cost = func(int) int { return reserved }
		gate.CostAfter(func(c int) int {
			calls++
			return c
		})
		if row.count {
			gate.CountOnly(func(status int) bool { return status == 401 })
		}
		assert.True(t, gate.NeedsSettle())
		assert.Equal(t, row.count, gate.NeedsStatus())
		ctx, leave := context.WithCancel(t.Context())
		d, refusal := gate.Check(row.actual, new(http.Request).WithContext(ctx), http.Header{}, policy)
		require.Nil(t, refusal)
		if row.left {
			leave()
		}
		gate.Settle(ctx, row.actual, d, row.status, false)
		leave()
		left, err := limiter.Peek(t.Context(), "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, row.charged, limit.Max-left.Remaining, row.name)
		assert.LessOrEqual(t, calls, 1, row.name)
		assert.Equal(t, row.logged != "", log.Len() > 0, "%s: %s", row.name, log)
		assert.Contains(t, log.String(), row.logged)
		log.Reset()
		require.NoError(t, limiter.Reset(t.Context(), "ann", limit))
	}
}

// A request that was not charged is not settled, and nothing is logged.
func TestCostAfterWithoutCharge(t *testing.T) {
	log := new(bytes.Buffer)
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	policy := FixedPolicy[int]([]core.Limit{core.PerMinute("a", 1)})
	for name, configure := range map[string]func(*Gate[int]){
		"exempt":      func(g *Gate[int]) { g.Exempt = func(int) bool { return true } },
		"no key":      func(g *Gate[int]) { g.key = func(int) (string, error) { return "", nil }; g.DryRun() },
		"a dry run":   func(g *Gate[int]) { g.DryRun() },
		"a bad cost":  func(g *Gate[int]) { g.Cost = func(int) int { return 2 }; g.DryRun() },
		"not decided": func(g *Gate[int]) { g.limiter.Close(); g.DryRun() },
	} {
		limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		require.NoError(t, err)
		defer limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, func(int) string { return "" })
		gate.CostAfter(func(int) int { return 7 })
		configure(gate)
		for range 2 { // the second would be denied
			d, refusal := gate.Check(0, new(http.Request), http.Header{}, policy)
			require.True(t, refusal == nil || refusal.DryRun, name)
			log.Reset() // what Check has logged
			gate.Settle(t.Context(), 0, d, 200, true)
			assert.Empty(t, log.String(), name)
		}
	}
}

// The policy is that of the limits that the function returns, even if the function changes its slice afterwards.
func TestPolicyFunc(t *testing.T) {
	limits := make([]core.Limit, 1)
	policy := PolicyFunc(func(n int) ([]core.Limit, error) {
		limits[0] = core.PerMinute("plan", n)
		return limits, nil
	})
	first, err := policy(1)
	require.NoError(t, err)
	for range 2 {
		for n := 1; n <= 100; n++ {
			p, err := policy(n)
			require.NoError(t, err)
			assert.Equal(t, []core.Limit{core.PerMinute("plan", n)}, p.limits)
			assert.Equal(t, fmt.Sprintf(`"plan";q=%d;w=60`, n), p.field)
		}
		_, err := policy(0)
		assert.ErrorIs(t, err, core.ErrInvalid)
	}
	again, err := policy(1)
	require.NoError(t, err)
	assert.Same(t, first, again, "the first policies are cached")

	parallel := PolicyFunc(func(n int) ([]core.Limit, error) { return []core.Limit{core.PerMinute("plan", n)}, nil })
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 1000 {
				n := 1 + (g+i)%50
				p, err := parallel(n)
				if assert.NoError(t, err) {
					assert.Equal(t, n, p.limits[0].Max)
				}
			}
		})
	}
	all.Wait()
}

func noRoute(*http.Request) string { return "" }

// In HTTP/2, a body with a length is read, and one without is left alone, because its client may wait for the response.
func TestDrainInHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Drain(w, r)
		rest, err := io.Copy(io.Discard, r.Body)
		assert.NoError(t, err)
		fmt.Fprint(w, rest)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	transport := &http.Transport{Protocols: server.Config.Protocols}
	defer transport.CloseIdleConnections()
	for _, row := range []struct {
		length int64
		rest   string // of a body of 200 kB
	}{
		{200_000, "0"},
		{-1, "200000"},
	} {
		r, err := http.NewRequest("POST", server.URL, strings.NewReader(strings.Repeat("x", 200_000)))
		require.NoError(t, err)
		r.ContentLength = row.length
		response, err := transport.RoundTrip(r)
		require.NoError(t, err)
		rest, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, row.rest, string(rest))
	}
}
