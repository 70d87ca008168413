package conduit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/apps/apptest"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// onInstances runs a test on two instances of the application with limits, which share a store and Redis.
func onInstances(t *testing.T, test func(*testing.T, []http.Handler)) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			store, prefix := newStore(t), redistest.Prefix()
			apps := make([]http.Handler, 2)
			for i := range apps {
				apps[i] = v.limited(store, config, apptest.Limiter(t, prefix))
			}
			test(t, apps)
		})
	}
}

func login(password string) apptest.Request {
	return apptest.Request{Target: "POST /api/users/login",
		Body: `{"user":{"email":"ann@example.com","password":"` + password + `"}}`}
}

// Of many wrong passwords at once, exactly five are tried. Then their address has no more tries, not even with the
// right password, and other addresses have theirs.
func TestLimitOfGuesses(t *testing.T) {
	onInstances(t, func(t *testing.T, apps []http.Handler) {
		for i := range 20 { // right ones do not count
			assert.Equal(t, http.StatusOK, login("sesame").Send(apps[i%2]).Code)
		}
		assert.Equal(t, map[int]int{403: 5, 429: 55}, apptest.Count(apps, 60, login("guess")))
		for _, app := range apps {
			w := login("sesame").Send(app)
			assert.Equal(t, http.StatusTooManyRequests, w.Code)
			assert.Contains(t, w.Body.String(), "#abnormal-usage-detected")
			elsewhere := login("sesame")
			elsewhere.Address = "192.0.2.2"
			assert.Equal(t, http.StatusOK, elsewhere.Send(app).Code)
		}
		apptest.Play(t, apps[0], []apptest.Request{{Target: "GET /api/user", As: ann, Status: 200}})
	})
}

// Each user writes as much as their plan allows, in all routes together and from any address. Reads have a limit of
// their own, by the user or, for guests, by the address.
func TestLimitOfPlans(t *testing.T) {
	onInstances(t, func(t *testing.T, apps []http.Handler) {
		apptest.Play(t, apps[0], []apptest.Request{ // ann's first of 20
			{Target: "POST /api/articles", As: ann, Body: `{"article":{"title":"On tea","body":"Hot."}}`, Status: 201}})
		comment := apptest.Request{Target: "POST /api/articles/on-tea/comments", As: ann,
			Body: `{"comment":{"body":"Nice."}}`}
		assert.Equal(t, map[int]int{201: 19, 429: 21}, apptest.Count(apps, 40, comment))
		comment.As, comment.Address = bob, "192.0.2.2"
		assert.Equal(t, map[int]int{201: 60, 429: 20}, apptest.Count(apps, 80, comment))
		apptest.Play(t, apps[1], []apptest.Request{
			{Target: "POST /api/articles/on-tea/favorite", As: ann, Address: "192.0.2.3", Status: 429,
				Want: `{"errors":{"body":["Too Many Requests"]}}`}, // the application's own format
			{Target: "GET /api/articles/on-tea", As: ann, Status: 200},
		})
		guest := apptest.Request{Target: "GET /api/articles", Address: "192.0.2.4"}
		assert.Equal(t, map[int]int{200: 120, 429: 10}, apptest.Count(apps, 130, guest))
		guest.As = ann
		assert.Equal(t, map[int]int{200: 2}, apptest.Count(apps, 2, guest))
	})
}

// No client chooses its address.
func TestLimitOfAddresses(t *testing.T) {
	onInstances(t, func(t *testing.T, apps []http.Handler) {
		for i := range 3 {
			r := httptest.NewRequest("GET", "/api/articles", nil)
			r.Header.Set("X-Forwarded-For", fmt.Sprint("198.51.100.", i))
			r.Header.Set("X-Real-Ip", fmt.Sprint("198.51.100.", i))
			w := httptest.NewRecorder()
			apps[i%2].ServeHTTP(w, r)
			assert.Contains(t, w.Header().Get("RateLimit"), fmt.Sprintf(`"site";r=%d`, 299-i))
		}
	})
}

// Pages on another origin may read the limits, and their preflights do not count.
func TestLimitsAndCORS(t *testing.T) {
	onInstances(t, func(t *testing.T, apps []http.Handler) {
		for range 3 {
			r := httptest.NewRequest("OPTIONS", "/api/articles", nil)
			r.Header.Set("Origin", "https://conduit.example.com")
			r.Header.Set("Access-Control-Request-Method", "POST")
			apps[0].ServeHTTP(httptest.NewRecorder(), r)
		}
		w := apptest.Request{Target: "GET /api/articles", As: "Origin: https://conduit.example.com"}.Send(apps[0])
		assert.Contains(t, w.Header().Get("RateLimit"), `"site";r=299`)
		assert.Equal(t, "RateLimit,RateLimit-Policy,Retry-After", w.Header().Get("Access-Control-Expose-Headers"))
	})
}

// Without Redis, a request is answered once: by the limiter, which shows nothing of the reason, or by the application.
func TestLimitsWithoutRedis(t *testing.T) {
	requests := []apptest.Request{
		{Target: "GET /api/user", As: ann},
		{Target: "GET /api/user"},
		{Target: "GET /nowhere"},
		{Target: "GET /api/articles"},
		{Target: "GET /api/articles/on-tea"},
		{Target: "POST /api/articles", As: ann, Body: `{`},
		{Target: "POST /api/users", Body: `{}`},
		login("guess"),
	}
	for _, v := range versions {
		limiter := apptest.Stopped(t)
		t.Run(v.name+"/FailClosed", func(t *testing.T) {
			app := v.limited(newStore(t), config, limiter.OnFailure(core.FailClosed))
			for _, r := range requests {
				apptest.Unavailable(t, r, app)
			}
		})
		t.Run(v.name+"/FailLocal", func(t *testing.T) {
			app := v.limited(newStore(t), config, limiter.OnFailure(core.FailLocal))
			for _, r := range requests {
				apptest.Same(t, r, v.plain(newStore(t), config), app)
			}
			counts := apptest.Count([]http.Handler{app}, 20, login("guess"))
			assert.Equal(t, map[int]int{403: 4, 429: 16}, counts)
		})
	}
}
