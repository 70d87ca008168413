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

// century is the longest window.
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
		{"denied", core.PerMinute("a", 9), false, state(0, ms(31_000), ms(59_000)), `"a";q=9;w=60`, `"a";r=0;t=31`, "31"},
		{"a microsecond", core.PerMinute("a", 9), false, state(0, time.Microsecond, ms(1)), `"a";q=9;w=60`, `"a";r=0;t=1`, "1"},
		{"a microsecond more", core.PerMinute("a", 9), false, state(0, time.Second+time.Microsecond, ms(9000)), `"a";q=9;w=60`, `"a";r=0;t=2`, "2"},
		{"short window", core.Limit{Name: "a", Max: 1, Window: ms(1)}, false, state(0, ms(1), ms(1)), `"a";q=1;w=1`, `"a";r=0;t=1`, "1"},
		{"odd window", core.Limit{Name: "a", Max: 1, Window: ms(1001)}, true, state(0, ms(1001), ms(1001)), `"a";q=1;w=2`, `"a";r=0;t=2`, ""},
		{"longest window", core.Limit{Name: "a", Max: 1, Window: century}, false, state(0, century, century), `"a";q=1;w=3153600000`, `"a";r=0;t=3153600000`, "3153600000"},
		{"denied by others", core.PerMinute("a", 9), false, state(7, 0, time.Minute), `"a";q=9;w=60`, `"a";r=7`, ""},
		{"awkward name", core.PerMinute(`\"`, 2), true, state(1, 0, time.Minute), `"\\\"";q=2;w=60`, `"\\\"";r=1`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := NewPolicy([]core.Limit{row.limit})
			require.NoError(t, err)
			row.state.Limit = row.limit
			d := core.Decision{Allowed: row.allowed, State: row.state}
			h := http.Header{}
			wait, twice := p.setFields(h, &d)
			assert.Equal(t, []string{row.policy}, h.Values("RateLimit-Policy"))
			assert.Equal(t, []string{row.field}, h.Values("RateLimit"))
			assert.Empty(t, twice)
			if row.retry != "" {
				setRetryAfter(h, wait)
				assert.Equal(t, row.retry, h.Get("Retry-After"))
			}
		})
	}
}

// Limits that were given to a route stay what they were, whatever becomes of the slice.
func TestFixedKeepsItsLimits(t *testing.T) {
	limits := []core.Limit{core.PerMinute("a", 1)}
	policy := Fixed[int](limits)
	limits[0].Max = 1000
	p, err := policy(0)
	require.NoError(t, err)
	assert.Equal(t, 1, p.limits[0].Max)
}

// A key that fails is told to the service, unless it is the client who left it out.
func TestKeyErrors(t *testing.T) {
	secret := errors.New("postgres://admin:hunter2@db is down")
	for _, row := range []struct {
		err    error
		status int
		fault  bool
	}{
		{nil, 401, false},
		{&keyError{status: 401, detail: "The X-API-Key header is missing."}, 401, false},
		{secret, 401, true},
		{Mistake("no address"), 500, true},
	} {
		said := captureLog(t)
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "", row.err }, nil)
		w := httptest.NewRecorder()
		_, v := gate.Check(0, &http.Request{}, w.Header(), Fixed[int]([]core.Limit{core.PerMinute("a", 1)}))
		v.Write(w)
		assert.Equal(t, row.status, w.Code)
		assert.Equal(t, row.fault, said.Len() > 0)
		assert.NotContains(t, w.Body.String(), "hunter2")
	}
}

// With NoFields no answer names the limits: neither its fields nor its body, whether it is a denial or an outage.
func TestNoFieldsNamesNoLimits(t *testing.T) {
	policy := Fixed[int]([]core.Limit{core.PerHour("hush-a", 1), core.PerHour("hush-b", 1)})
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
			limiter.Close() // from here on it is unavailable
		}
	}
}

func TestWhoseFault(t *testing.T) {
	policy := Fixed[int]([]core.Limit{core.PerMinute("a", 1)})

	gone, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	for _, row := range []struct {
		name  string
		ctx   context.Context
		fault bool
	}{
		{"an outage is the service's", context.Background(), true},
		{"a deadline of its own, too", late, true},
		{"a client that left is nobody's", gone, false},
	} {
		said := captureLog(t)
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, nil)
		w := httptest.NewRecorder()
		_, v := gate.Check(0, new(http.Request).WithContext(row.ctx), w.Header(), policy)
		require.NotNil(t, v)
		assert.False(t, v.Denied())
		assert.Equal(t, row.fault, said.Len() > 0, row.name)
		v.Write(w)
		assert.Equal(t, 503, w.Code)
		assert.Equal(t, "1", w.Header().Get("Retry-After"))
	}
}

// A charge is given back if the status is known and does not count, and the client was there until then.
func TestSettle(t *testing.T) {
	server, said := redistest.Start(t), captureLog(t)
	limiter, err := core.Connect(server.URL(), core.WithTimeout(time.Minute))
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerMinute("a", 9)
	policy := Fixed[int]([]core.Limit{limit})
	for _, row := range []struct {
		name   string
		status int
		leaves string // when the client does
		kept   bool
	}{
		{"it counts", 401, "", true},
		{"it does not", 200, "", false},
		{"another protocol", 101, "", false},
		{"an interim answer", 100, "", true},
		{"early hints", 103, "", true},
		{"no status", 0, "", true},
		{"the client has left", 200, "before", true},
		{"the client has left within the answer", 200, "within", false},
		{"the deadline has passed within the answer", 200, "late", true},
		{"the client leaves meanwhile", 200, "during", false},
	} {
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, func(int) string { return "" })
		ctx, leave := context.WithCancel(t.Context())
		gate.CountOnly(func(status int) bool {
			if row.leaves == "during" { // and Redis does not answer yet
				require.NoError(t, server.Pause())
				time.AfterFunc(100*time.Millisecond, func() { server.Resume() })
				leave()
			}
			return status == 401
		})
		d, v := gate.Check(0, new(http.Request).WithContext(ctx), http.Header{}, policy)
		require.Nil(t, v)
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
	assert.Empty(t, said.String(), "no refund has failed")
}

// A request that counts costs what CostAfter says, whatever has become of its client, and CostAfter is asked once.
func TestCostAfter(t *testing.T) {
	said := new(bytes.Buffer)
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerMinute("a", 100)
	policy := Fixed[int]([]core.Limit{limit})
	const reserved = 10
	for _, row := range []struct {
		name    string
		actual  int
		byRoute bool // with CountOnly
		status  int
		left    bool // the client has
		charged int
		logged  string
	}{
		{"less", 3, false, 200, false, 3, ""},
		{"nothing", 0, false, 200, false, 0, ""},
		{"as much", 10, false, 200, false, 10, ""},
		{"more", 30, false, 500, false, 30, ""},
		{"beyond Max", 300, false, 200, false, 100, ""},
		{"no status", 3, false, 0, false, 3, ""},
		{"the client has left", 30, false, 200, true, 30, ""},
		{"it counts", 3, true, 401, false, 3, ""},
		{"it does not", 3, true, 200, false, 0, ""},
		{"it is not known whether it does", 3, true, 0, false, 3, ""},
		{"nor to a client that has left", 30, true, 200, true, 30, ""},
		{"a mistake", -1, false, 200, false, 10, "CostAfter returned -1: it must return at least 0"},
		{"none, as it does not count", -1, true, 200, false, 0, ""},
	} {
		asked, key := 0, func(int) (string, error) { return "ann", nil }
		gate := NewGate(limiter, key, func(int) string { return "" })
		gate.Cost = func(int) int { return reserved }
		gate.CostAfter(func(c int) int {
			asked++
			return c
		})
		if row.byRoute {
			gate.CountOnly(func(status int) bool { return status == 401 })
		}
		assert.True(t, gate.Settles())
		assert.Equal(t, row.byRoute, gate.AwaitsStatus())
		ctx, leave := context.WithCancel(t.Context())
		d, v := gate.Check(row.actual, new(http.Request).WithContext(ctx), http.Header{}, policy)
		require.Nil(t, v)
		if row.left {
			leave()
		}
		gate.Settle(ctx, row.actual, d, row.status, false)
		leave()
		left, err := limiter.Peek(t.Context(), "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, row.charged, limit.Max-left.Remaining, row.name)
		assert.LessOrEqual(t, asked, 1, row.name)
		assert.Equal(t, row.logged != "", said.Len() > 0, "%s: %s", row.name, said)
		assert.Contains(t, said.String(), row.logged)
		said.Reset()
		require.NoError(t, limiter.Reset(t.Context(), "ann", limit))
	}
}

// What was not charged is not settled, and no mistake.
func TestCostAfterOfNothing(t *testing.T) {
	said := new(bytes.Buffer)
	limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	policy := Fixed[int]([]core.Limit{core.PerMinute("a", 1)})
	for name, change := range map[string]func(*Gate[int]){
		"exempt":      func(g *Gate[int]) { g.Exempt = func(int) bool { return true } },
		"no key":      func(g *Gate[int]) { g.key = func(int) (string, error) { return "", nil }; g.DryRun() },
		"a dry run":   func(g *Gate[int]) { g.DryRun() },
		"a bad cost":  func(g *Gate[int]) { g.Cost = func(int) int { return 2 }; g.DryRun() },
		"not decided": func(g *Gate[int]) { g.limiter.Close(); g.DryRun() },
	} {
		limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.NewTextHandler(said, nil))))
		require.NoError(t, err)
		defer limiter.Close()
		gate := NewGate(limiter, func(int) (string, error) { return "ann", nil }, func(int) string { return "" })
		gate.CostAfter(func(int) int { return 7 })
		change(gate)
		for range 2 { // the second would be denied
			d, v := gate.Check(0, new(http.Request), http.Header{}, policy)
			require.True(t, v == nil || v.Waived, name)
			said.Reset() // of what has let it pass
			gate.Settle(t.Context(), 0, d, 200, true)
			assert.Empty(t, said.String(), name)
		}
	}
}

// Whatever limits a function chooses, and whatever it does with its slice afterwards, the policy is that of the limits
// chosen.
func TestChosenPolicies(t *testing.T) {
	limits := make([]core.Limit, 1)
	chosen := Chosen(func(n int) ([]core.Limit, error) {
		limits[0] = core.PerMinute("plan", n)
		return limits, nil
	})
	first, err := chosen(1)
	require.NoError(t, err)
	for range 2 {
		for n := 1; n <= 100; n++ {
			p, err := chosen(n)
			require.NoError(t, err)
			assert.Equal(t, []core.Limit{core.PerMinute("plan", n)}, p.limits)
			assert.Equal(t, fmt.Sprintf(`"plan";q=%d;w=60`, n), p.field)
		}
		_, err := chosen(0)
		assert.ErrorIs(t, err, core.ErrInvalid)
	}
	again, err := chosen(1)
	require.NoError(t, err)
	assert.Same(t, first, again, "made once")

	parallel := Chosen(func(n int) ([]core.Limit, error) { return []core.Limit{core.PerMinute("plan", n)}, nil })
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

// In HTTP/2 a body with a length is read, and one without is left alone, since its client may wait for the answer.
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
