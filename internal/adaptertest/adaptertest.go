// Package adaptertest is the one conformance table that every adapter passes: the same requests, at the same moments, get
// the same bytes. The answers are the golden files in testdata/http; write them anew with
//
//	go test ./ginlimit -update
//
// read the difference, and see that the other adapters still give the same.
package adaptertest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
)

var update = flag.Bool("update", false, "write the golden files anew")

// App mounts these routes, for GET unless it says otherwise and answered by OK unless it says otherwise:
//
//	/one       ClientIP, One; for HEAD and OPTIONS, too
//	/several   ClientIP, Burst and Sustained in one Limit
//	/stacked   ClientIP, Outer on a group and Inner on the route
//	/deep      ClientIP, Outer on a group, Burst and Sustained on a group in it, and Inner on the route
//	/twice     ClientIP, One on a group and again on the route
//	/keys      Header("X-API-Key"), Inner on a group, and ClientIP, One on the route
//	/table/:id ClientIP, One by LimitRoutes on the whole, Outer on a group, and Inner on the route
//	/free      ClientIP, by the same LimitRoutes without limits, on purpose
//	/quoted    ClientIP, Quoted
//	/legacy    ClientIP, LegacyFields, Outer on a group, and Burst and Inner on the route
//	/secret    ClientIP, NoFields, One
//	/text      Header("X-API-Key"), PlainText, One
//	/begun     ClientIP, One, behind middleware that calls Begin
//	/panic     ClientIP, One, behind middleware that answers panics with Recovered; the handler panics
//	/upgrade   ClientIP, One; the handler calls Upgrade
//	/header    Header("X-API-Key"), One
//	/first     FirstOf(Header("X-API-Key"), ClientIP()), One
//	/bearer    BearerToken, One
//	/cookie    Cookie("session"), One
//	/query     Query("api_key", HashKey(Secret)), One
//	/path/:id  PathParam("id"), One
//	/path      PathParam("id"), One, which is a mistake
//	/route/:id Route, One
//	/join/:id  Join(PathParam("id"), ClientIP()), One
//	/global    Global, One
//	/own       a key of the user's own: OwnKey of the query's "user", One
//	/plan      ClientIP, LimitFunc with Plan of the header X-Plan
//	/denied    ClientIP, One, with Denied as OnDenied
//	/proxied   ClientIP(TrustedProxies("10.0.0.0/8", "unix")), One
//	/framework FrameworkClientIP, One, while the framework believes everyone, as Gin and Echo v4 are made and Echo v5 is not
//	/silent    ClientIP, One, with an OnDenied that does nothing
//	/cost      ClientIP, Cost as Number of the query's "cost", Outer
//	/failures  ClientIP, CountOnly with Failed, One; the handler answers with Number of the query's "status"
//	/guard     ClientIP, CountOnly with Failed, Guard; the handler answers with Number of the query's "status"
//	/vault     ClientIP, CountOnly with Failed, Vault; the handler calls Attempt with Number of the query's "status"
//	/tokens    ClientIP, Outer on a group, and Cost as Number of the query's "cost", Tokens on the route
//	/logins    ClientIP, CountOnly with Failed, Logins; the handler calls Attempt with Number of the query's "status"
//	/exempt    Header("X-API-Key"), Exempt with Staff of the header X-Staff, One; below it, /exempt/plan by LimitFunc with Plan,
//	           /exempt/table by LimitRoutes, and /exempt/failures with CountOnly and Failed, whose handler answers with 404
//	/dry       Header("X-API-Key"), DryRun, Cost as Number of the query's "cost", One
//	/answered  ClientIP, LimitFunc with one that calls Refuse and fails
//	/given     ClientIP, CountOnly with Failed, Inner; the handler calls Handle
//	/actions   ClientIP, CountOnly with Succeeded, Inner; the handler calls Handle
//	/mapped    ClientIP, CountOnly with Failed, One; the handler fails with Status of the query's "status"
//	/mapping   the same, with middleware behind the limiter that answers errors with Render
//	/settled   ClientIP, Cost and CostAfter as Number of the query's "cost" and "actual", Outer
//	/spent     the same, Spent; the handler calls Handle
//	/tried     the same, CountOnly with Failed, Spent; the handler calls Handle
//	/fails     as /tried; the handler fails with Status of the query's "status"
//	/flight    ClientIP, Flight; the handler calls Handle; below it, /flight/several with Flight and Inner in one Limit,
//	           /flight/dry with DryRun, /flight/failures with CountOnly and Failed, Flight and Inner, and /flight/mapped,
//	           CountOnly and Failed, Inner and Flight, whose handler fails with Status of the query's "status"
//
// Requests that match no route are under Unknown by the same LimitRoutes, and answered by NotFound. Middleware in
// front of everything answers the errors of a request with Render after its handlers have run, as the error
// middleware of many services does.
type App func(limiter *core.Limiter) http.Handler

// The limits of the table.
var (
	One       = core.Limit{Name: "one", Max: 2, Window: 10 * time.Second}
	Burst     = core.PerSecond("burst", 2)
	Sustained = core.PerMinute("sustained", 3)
	Outer     = core.PerMinute("outer", 3)
	Inner     = core.PerHour("inner", 2)
	Unknown   = core.Limit{Name: "unknown", Max: 2, Window: 10 * time.Second}
	Guard     = core.Limit{Name: "guard", Max: 2, Window: 10 * time.Second, Ban: time.Minute}
	Tokens    = core.Limit{Name: "tokens", Max: 500, Window: time.Minute, Unit: "tokens"}
	Flight    = core.InFlight("flight", 2, 30*time.Second)
	Quoted    = core.Limit{Name: `a "quoted" \ name`, Max: 1, Window: 1500 * time.Millisecond}
)

// Secret is what values are hashed with where it says so.
var Secret = []byte("0123456789abcdef")

// OwnKey is a key function as a user might write it.
func OwnKey(user string) (string, error) {
	if user == "broken" {
		return "", errors.New("connecting to postgres://admin:hunter2@db failed")
	}
	return user, nil
}

// Plan chooses limits as a user might.
func Plan(plan string) ([]core.Limit, error) {
	switch plan {
	case "pro":
		return []core.Limit{core.PerMinute("plan", 2)}, nil
	case "flight":
		return []core.Limit{Flight}, nil
	case "free":
		return []core.Limit{core.PerMinute("plan", 1)}, nil
	case "invalid":
		return []core.Limit{{Name: "plan"}}, nil
	case "broken":
		return nil, errors.New("connecting to postgres://admin:hunter2@db failed")
	}
	return nil, nil
}

// Number reads a number of the query.
func Number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// Staff is what a user might exempt.
func Staff(header string) bool { return header == "yes" }

// Failed says whether an answer is one of failure.
func Failed(status int) bool { return status >= 400 }

// Succeeded reports whether an answer is one of success.
func Succeeded(status int) bool { return status < 300 }

// Status is an error that middleware answers with a status.
type Status int

func (s Status) Error() string { return "status " + strconv.Itoa(int(s)) }

// Render answers an error, and shows all of it, as middleware of a service might.
func Render(w http.ResponseWriter, err error) {
	status := Status(http.StatusBadRequest)
	errors.As(err, &status)
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(int(status))
	io.WriteString(w, "rendered: "+err.Error())
}

// OK is the handler behind every limit.
func OK(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, "ok")
}

// NotFound answers requests that match no route.
func NotFound(w http.ResponseWriter) { http.Error(w, "not here", http.StatusNotFound) }

// Begin begins an answer before the limiter is asked.
func Begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, "begun, ")
}

// Recovered answers a request whose handler has panicked.
func Recovered(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusInternalServerError)
	io.WriteString(w, "recovered")
}

// Upgrade leaves HTTP for a protocol that says hello, as libraries for websockets do: with the fields that are set.
func Upgrade(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hello\r\n")
	w.Header().Write(conn)
	fmt.Fprint(conn, "\r\nhello")
}

// Denied is what a user might give OnDenied.
func Denied(w http.ResponseWriter, d core.Decision) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(420)
	fmt.Fprintf(w, "%s allows %d per %v, come back in %v\n", d.Limit.Name, d.Limit.Max, d.Limit.Window, d.RetryAfter)
}

// Refuse is an answer that a function of the user's gives instead of ours.
func Refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusForbidden)
	io.WriteString(w, "no plan")
}

// Run holds an adapter's App against the table, over each protocol.
func Run(t *testing.T, app App) {
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			for _, row := range table {
				t.Run(row.name, func(t *testing.T) {
					golden(t, row.name, transcript(t, app, protocol, row.requests, false))
				})
			}
			t.Run("unavailable", func(t *testing.T) {
				golden(t, "unavailable", transcript(t, app, protocol, unavailable, true))
			})
		})
	}
	t.Run("upgrade", func(t *testing.T) { // which HTTP/2 does in another way
		upgrade := request{target: "/upgrade", header: "Connection: Upgrade\nUpgrade: hello"}
		golden(t, "upgrade", transcript(t, app, "HTTP/1.1", []request{upgrade, upgrade, upgrade}, false))
	})
	t.Run("outage", func(t *testing.T) { outage(t, app) })
	t.Run("logins", func(t *testing.T) { logins(t, app) })
	t.Run("guard", func(t *testing.T) { guard(t, app) })
	t.Run("instances", func(t *testing.T) { instances(t, app) })
	t.Run("interim", func(t *testing.T) { interim(t, app) })
	t.Run("disconnects", func(t *testing.T) { disconnects(t, app) })
	t.Run("streams", func(t *testing.T) { streams(t, app) })
	t.Run("uploads", func(t *testing.T) { uploads(t, app) })
	t.Run("slow uploads", func(t *testing.T) { slowUploads(t, app) })
	t.Run("uploads behind readers", func(t *testing.T) { uploadsBehindReaders(t, app) })
	t.Run("upgrades", func(t *testing.T) { upgrades(t, app) })
	t.Run("contexts of handlers", func(t *testing.T) { contextsOfHandlers(t, app) })
	t.Run("panics", func(t *testing.T) { panics(t, app) })
	t.Run("refunds", func(t *testing.T) { refunds(t, app) })
	t.Run("settles", func(t *testing.T) { settles(t, app) })
	t.Run("settles of many", func(t *testing.T) { settlesOfMany(t, app) })
	t.Run("in flight", func(t *testing.T) { inFlight(t, app) })
	t.Run("errors", func(t *testing.T) { serviceErrors(t, app) })
	t.Run("deadlines", func(t *testing.T) { deadlines(t, app) })
}

// transcript sends requests at their moments, on a clock that stands still in between.
func transcript(t *testing.T, app App, protocol string, requests []request, down bool) []byte {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		limiter, err := core.NewInProcess(core.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		defer limiter.Close()
		d, err := limiter.AllowN(t.Context(), "ip:"+Busy, Flight.Max, Flight)
		require.True(t, err == nil && d.Allowed)
		if down {
			limiter.Close() // a limiter that cannot decide
		}
		wire, start := serve(t, app(limiter), protocol), time.Now()
		defer wire.server.Close()
		for _, r := range requests {
			time.Sleep(r.at - time.Since(start))
			response, body := wire.send(r)
			fmt.Fprintf(&out, "=== %v %s %s %s\n", r.at, strings.TrimSpace(r.method+" "+r.target), r.from, strings.ReplaceAll(r.header, "\n", ", "))
			writeResponse(&out, response, body)
			checkFields(t, response.Header)
		}
	})
	return out.Bytes()
}

func writeResponse(out *bytes.Buffer, r *http.Response, body string) {
	fmt.Fprintln(out, r.StatusCode, http.StatusText(r.StatusCode))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name == "Date" || name == "Content-Length" { // the server's own
			continue
		}
		for _, value := range r.Header[name] {
			fmt.Fprintf(out, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintf(out, "\n%s\n", body)
}

// checkFields reads the fields back with a parser that is not ours: both or none, one line each, of the same policies, each
// once; and Retry-After not before any of them has room.
func checkFields(t *testing.T, h http.Header) {
	t.Helper()
	policies, limits := h.Values("RateLimit-Policy"), h.Values("RateLimit")
	require.Equal(t, len(policies), len(limits))
	if len(policies) == 0 {
		return
	}
	require.Len(t, policies, 1)
	policy, err := httpsfv.UnmarshalList(policies)
	require.NoError(t, err, policies)
	limit, err := httpsfv.UnmarshalList(limits)
	require.NoError(t, err, limits)
	require.Equal(t, len(policy), len(limit))
	seen, wait := map[any]bool{}, int64(0)
	for i := range policy {
		p, l := policy[i].(httpsfv.Item), limit[i].(httpsfv.Item)
		require.IsType(t, "", p.Value)
		require.Equal(t, p.Value, l.Value)
		require.False(t, seen[p.Value], "%v is there twice", p.Value)
		seen[p.Value] = true
		require.Positive(t, param(t, p, "q"))
		require.LessOrEqual(t, param(t, l, "r"), param(t, p, "q"))
		qu, _ := p.Params.Get("qu")
		if qu == "concurrent-requests" { // of which nobody knows when there is room
			require.Zero(t, param(t, p, "w"))
			require.Zero(t, param(t, l, "t"))
			continue
		}
		require.Positive(t, param(t, p, "w"))
		if p.Value != Guard.Name { // whose ban is longer than its window
			require.LessOrEqual(t, param(t, l, "t"), param(t, p, "w"))
		}
		require.False(t, param(t, l, "r") == 0 && param(t, l, "t") == 0, "seconds to wait where nothing remains")
		wait = max(wait, param(t, l, "t"))
	}
	if after := h.Get("Retry-After"); after != "" {
		require.Equal(t, fmt.Sprint(max(1, wait)), after)
	}
}

// param is a parameter that is a number and not negative; zero where there is none.
func param(t *testing.T, item httpsfv.Item, name string) int64 {
	t.Helper()
	value, ok := item.Params.Get(name)
	if !ok {
		return 0
	}
	require.IsType(t, int64(0), value)
	require.GreaterOrEqual(t, value, int64(0))
	return value.(int64)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join(root(t), "testdata", "http", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), file)
}

// root is the folder of the module, in or above which the test of an adapter runs.
func root(t *testing.T) string {
	dir := "."
	for _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil; _, err = os.Stat(filepath.Join(dir, "go.mod")) {
		dir = filepath.Join(dir, "..")
		require.Less(t, len(dir), 100, "there is no go.mod")
	}
	return dir
}

// Get sends a GET request with headers, each "Name: value", straight to a handler.
func Get(handler http.Handler, target string, headers ...string) *http.Response {
	r := httptest.NewRequest("GET", target, nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result()
}
