package push

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/apps/apptest"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// instances returns two instances of the application with limits, which share a store and Redis.
func instances(t *testing.T) []http.Handler {
	t.Helper()
	store, prefix := newStore(), redistest.Prefix()
	apps := make([]http.Handler, 2)
	for i := range apps {
		apps[i] = limited(t, store, apptest.Limiter(t, prefix))
	}
	return apps
}

// Of many wrong passwords at once, exactly five are tried. Then their address has no more tries, not even with the
// right password, and other addresses have theirs.
func TestLimitOfGuesses(t *testing.T) {
	apps := instances(t)
	for range 10 { // right ones do not count, whatever they are answered
		apptest.Play(t, apps[0], []apptest.Request{
			{Target: "GET /client", As: ann, Status: 200},
			{Target: "POST /user", As: admin, Body: `{"name":"ann","pass":"x"}`, Status: 400},
		})
	}
	apptest.Play(t, apps[1], []apptest.Request{
		{Target: "POST /client", As: ann, Body: `{"name":"phone"}`, Status: 200}})
	counts := apptest.Count(apps, 60, apptest.Request{Target: "POST /message", As: wrong})
	assert.Equal(t, map[int]int{401: 5, 429: 55}, counts)
	for _, app := range apps {
		w := apptest.Request{Target: "GET /client", As: ann}.Send(app)
		assert.Equal(t, http.StatusTooManyRequests, w.Code)
		assert.Contains(t, w.Body.String(), "#abnormal-usage-detected")
		apptest.Play(t, app, []apptest.Request{
			{Target: "GET /client", As: ann, Address: "192.0.2.2", Status: 200},
			{Target: "GET /client", As: "Bearer C1", Status: 200}, // a token is no guess
			{Target: "GET /version", Status: 200},
		})
	}
}

func TestLimitOfMessages(t *testing.T) {
	apps := instances(t)
	apptest.Play(t, apps[0], []apptest.Request{
		{Target: "POST /application", As: ann, Body: `{"name":"backup"}`, Status: 200},
		{Target: "POST /application", As: ann, Body: `{"name":"door"}`, Status: 200},
	})
	message := apptest.Request{Target: "POST /message", As: "X-Push-Key: A1", Body: `{"message":"done"}`}
	assert.Equal(t, map[int]int{200: 60, 429: 140}, apptest.Count(apps, 200, message))

	message.As, message.Address = "Bearer A1", "192.0.2.2"
	assert.Equal(t, map[int]int{429: 2}, apptest.Count(apps, 2, message), "in another spelling, from another address")
	message.As = "Bearer A2"
	assert.Equal(t, map[int]int{200: 2}, apptest.Count(apps, 2, message), "another application")
}

func TestLimitOfPlans(t *testing.T) {
	apps := instances(t)
	// By passwords, many requests at once would be many guesses until they are answered.
	apptest.Play(t, apps[0], []apptest.Request{
		{Target: "POST /client", As: ann, Body: `{"name":"phone"}`, Status: 200},
		{Target: "POST /client", As: admin, Body: `{"name":"phone"}`, Status: 200},
	})
	list := apptest.Request{Target: "GET /application", As: "Bearer C1"}
	assert.Equal(t, map[int]int{200: 99, 429: 31}, apptest.Count(apps, 130, list))
	list.As, list.Address = "Bearer C2", "192.0.2.2"
	assert.Equal(t, map[int]int{200: 199, 429: 31}, apptest.Count(apps, 230, list))
}

// An upload costs a unit, and one for each kilobyte.
func TestLimitOfUploads(t *testing.T) {
	apps := instances(t)
	apptest.Play(t, apps[0], []apptest.Request{{Target: "POST /application", As: ann,
		Body: `{"name":"backup"}`, Status: 200}})
	for i, step := range []struct {
		size, status, remaining int
	}{
		{MaxImage, 200, 191},
		{300 << 10, 413, 126}, // too large, but its cost is no mistake
		{59 << 10, 200, 66},
		{MaxImage, 200, 1},
		{1 << 10, 429, 1},
		{1<<10 - 1, 200, 0},
		{len(png), 429, 0},
	} {
		w := apptest.Request{Target: "POST /application/3/image", As: ann,
			Body: png + strings.Repeat("x", step.size-len(png))}.Send(apps[i%2])
		assert.Equal(t, step.status, w.Code, "%d bytes: %s", step.size, w.Body)
		assert.Equal(t, step.remaining, remaining(t, w, "images"), "%d bytes", step.size)
	}
	// A body without a length costs as much as the largest.
	app := instances(t)[0]
	apptest.Play(t, app, []apptest.Request{{Target: "POST /application", As: ann,
		Body: `{"name":"backup"}`, Status: 200}})
	r := httptest.NewRequest("POST", "/application/3/image", io.MultiReader(strings.NewReader(png)))
	r.Header.Set("Authorization", ann)
	w := httptest.NewRecorder()
	app.ServeHTTP(w, r)
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, 191, remaining(t, w, "images"))
}

func TestLimitOfStreams(t *testing.T) {
	apps := instances(t)
	servers := make([]*httptest.Server, len(apps))
	for i, app := range apps {
		servers[i] = serve(t, app)
	}
	apptest.Play(t, apps[0], []apptest.Request{
		{Target: "POST /client", As: ann, Body: `{"name":"phone"}`, Status: 200}})
	first, response, err := dial(servers[0], "C1")
	require.NoError(t, err)
	assert.Contains(t, response.Header.Get("RateLimit"), `"streams";r=2`)
	for i := range 2 {
		conn, _, err := dial(servers[1-i], "C1")
		require.NoError(t, err)
		defer conn.Close()
	}
	for _, server := range servers {
		_, response, err = dial(server, "C1")
		require.Error(t, err)
		assert.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	}
	first.Close()
	require.Eventually(t, func() bool {
		conn, _, err := dial(servers[1], "C1")
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "a stream that has ended counts")
}

// Clients behind a trusted proxy are told apart, also on a Unix socket, and no client chooses its address.
func TestLimitOfAddresses(t *testing.T) {
	for _, test := range []struct {
		trusted []string
		peer    string
		want    int // what the second client has left of "site"
	}{
		{trusted: nil, peer: "192.0.2.1:1234", want: 298},
		{trusted: []string{"127.0.0.1"}, peer: "192.0.2.1:1234", want: 298},
		{trusted: []string{"127.0.0.1"}, peer: "127.0.0.1:1234", want: 299},
		{trusted: []string{"127.0.0.1"}, peer: "@", want: 299},
	} {
		config := config
		config.TrustedProxies = test.trusted
		app, err := NewLimited(newStore(), config, apptest.Limiter(t, redistest.Prefix()))
		require.NoError(t, err)
		var left int
		for _, client := range []string{"198.51.100.1", "198.51.100.2"} {
			r := httptest.NewRequest("GET", "/version", nil)
			r.RemoteAddr = test.peer
			r.Header.Set("X-Forwarded-For", client)
			w := httptest.NewRecorder()
			app.ServeHTTP(w, r)
			left = remaining(t, w, "site")
		}
		assert.Equal(t, test.want, left, "peer %s, trusted %v", test.peer, test.trusted)
	}
}

// remaining reads from the RateLimit field what a limit has left.
func remaining(t *testing.T, w *httptest.ResponseRecorder, limit string) int {
	t.Helper()
	_, field, ok := strings.Cut(w.Header().Get("RateLimit"), `"`+limit+`";r=`)
	require.True(t, ok, "no limit %q in %q", limit, w.Header())
	var n int
	for _, digit := range field {
		if digit < '0' || digit > '9' {
			break
		}
		n = 10*n + int(digit-'0')
	}
	return n
}

// Pages on another origin may read the limits, and their preflights do not count.
func TestLimitsAndCORS(t *testing.T) {
	app := instances(t)[0]
	for range 3 {
		r := httptest.NewRequest("OPTIONS", "/version", nil)
		r.Header.Set("Origin", "https://push.example.com")
		r.Header.Set("Access-Control-Request-Method", "GET")
		app.ServeHTTP(httptest.NewRecorder(), r)
	}
	w := apptest.Request{Target: "GET /version", As: "Origin: https://push.example.com"}.Send(app)
	assert.Equal(t, 299, remaining(t, w, "site"))
	assert.Equal(t, "Ratelimit,Ratelimit-Policy,Retry-After", w.Header().Get("Access-Control-Expose-Headers"))
}

// Without Redis, a request is answered once: by the limiter, which shows nothing of the reason, or by the application.
func TestLimitsWithoutRedis(t *testing.T) {
	requests := []apptest.Request{
		{Target: "GET /version"},
		{Target: "GET /nowhere"},
		{Target: "GET /client", As: ann},
		{Target: "GET /client", As: wrong},
		{Target: "GET /user", As: ann},
		{Target: "POST /user", As: admin, Body: `{"name":"ann","pass":"x"}`}, // an error without a status
		{Target: "POST /message", As: ann},
		{Target: "POST /message?token=A9"},
		{Target: "GET /stream", As: ann}, // no WebSocket
	}
	limiter := apptest.Stopped(t)
	t.Run("FailClosed", func(t *testing.T) {
		app := limited(t, newStore(), limiter.OnFailure(core.FailClosed))
		for _, r := range requests {
			apptest.Unavailable(t, r, app)
		}
		apptest.Play(t, app, []apptest.Request{{Target: "GET /health", Status: 200}}) // it has no limits
	})
	t.Run("FailLocal", func(t *testing.T) {
		app := limited(t, newStore(), limiter.OnFailure(core.FailLocal))
		plain, err := New(newStore(), config)
		require.NoError(t, err)
		for _, r := range requests {
			apptest.Same(t, r, plain, app)
		}
		counts := apptest.Count([]http.Handler{app}, 20, apptest.Request{Target: "GET /client", As: wrong})
		assert.Equal(t, map[int]int{401: 4, 429: 16}, counts)
	})
}
