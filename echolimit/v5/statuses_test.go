package echolimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// With Echo's own proxy, CountOnly gets the final status of a response that begins with an interim one.
func TestCountOnlyBehindEchosProxy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	failed := echolimit.New(limiter, echolimit.Global(), echolimit.CountOnly(adaptertest.Failed))
	e.Use(failed.Limit(adaptertest.Inner))
	e.Use(middleware.Proxy(middleware.NewRoundRobinBalancer([]*middleware.ProxyTarget{{URL: target}})))
	server := httptest.NewServer(e)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}}
	for i := range adaptertest.Inner.Max + 1 {
		r, err := http.NewRequest("POST", server.URL, strings.NewReader("password=hunter2"))
		require.NoError(t, err)
		r.Header.Set("Expect", "100-continue")
		response, err := client.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, i == adaptertest.Inner.Max, response.StatusCode == http.StatusTooManyRequests, i)
	}
}

// CountOnly gets the status that the client sees, also if Echo's error handler responds to an error or a panic.
func TestCountOnlyWithErrors(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	limit := core.PerHour("failures", 3)
	e := echo.New()
	e.Use(middleware.Recover())
	failed := echolimit.New(limiter, echolimit.Global(),
		echolimit.CountOnly(func(status int) bool { return status == 401 || status == 500 }))
	handlers := map[string]echo.HandlerFunc{
		"/fine":      func(c *echo.Context) error { return c.NoContent(http.StatusOK) },
		"/forbidden": func(*echo.Context) error { return echo.ErrForbidden },
		"/wrapped":   func(*echo.Context) error { return fmt.Errorf("login: %w", echo.ErrUnauthorized) },
		"/inner":     func(*echo.Context) error { return echo.NewHTTPError(403, "").Wrap(echo.ErrUnauthorized) },
		"/begun": func(c *echo.Context) error {
			return errors.Join(c.NoContent(http.StatusOK), errors.New("no database"))
		},
		"/error": func(*echo.Context) error { return errors.New("no database") },
		"/panic": func(*echo.Context) error { panic("no database") },
	}
	for path, handler := range handlers {
		e.GET(path, handler, failed.Limit(limit))
	}
	charged := func() int {
		d, err := limiter.Peek(t.Context(), "global", limit)
		require.NoError(t, err)
		return limit.Max - d.Remaining
	}
	for _, row := range []struct {
		path    string
		status  int
		counted bool
	}{
		{"/fine", 200, false}, {"/begun", 200, false},
		{"/forbidden", 403, false}, {"/inner", 403, false},
		{"/error", 500, true}, {"/wrapped", 401, true}, {"/panic", 500, true},
	} {
		before := charged()
		status := adaptertest.Get(e, row.path).StatusCode
		assert.Equal(t, row.status, status, row.path)
		assert.Equal(t, row.counted, charged() > before, row.path)
	}
	assert.Equal(t, 429, adaptertest.Get(e, "/fine").StatusCode)
}

// CountOnly gets the status of a HEAD request also on the whole Echo, where Echo has written the response before next
// returns.
func TestAutoHandleHEADWithUse(t *testing.T) {
	for status, want := range map[int]string{200: "[200 200 200]", 401: "[401 429 429]"} {
		limiter, err := core.NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		e := echo.NewWithConfig(echo.Config{Router: echo.NewRouter(echo.RouterConfig{AutoHandleHEAD: true})})
		e.Use(echolimit.New(limiter, echolimit.ClientIP(),
			echolimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failed", 1)))
		e.GET("/", func(c *echo.Context) error { return c.String(status, "answer") })
		var statuses []int
		for range 3 {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest("HEAD", "/", nil))
			statuses = append(statuses, w.Code)
		}
		assert.Equal(t, want, fmt.Sprint(statuses))
	}
}

// CountOnly gets the status that the client sees, whatever middleware of Echo runs before or after the limiter, and
// even if a handler writes a second status.
func TestCountOnlyWithMiddleware(t *testing.T) {
	plain := func(writer echo.MiddlewareFunc) func(time.Duration) echo.MiddlewareFunc {
		return func(time.Duration) echo.MiddlewareFunc { return writer }
	}
	writers := map[string]func(time.Duration) echo.MiddlewareFunc{
		"nothing":      plain(func(next echo.HandlerFunc) echo.HandlerFunc { return next }),
		"gzip":         plain(middleware.Gzip()),
		"gzip of much": plain(middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1000})),
		"body dump":    plain(middleware.BodyDump(func(*echo.Context, []byte, []byte, error) {})),
		"a deadline":   middleware.ContextTimeout,
		"TimeoutHandler": func(d time.Duration) echo.MiddlewareFunc {
			return echo.WrapMiddleware(func(h http.Handler) http.Handler { return http.TimeoutHandler(h, d, "late") })
		},
	}
	handlers := map[string]echo.HandlerFunc{
		"/success": ok,
		"/nothing": func(*echo.Context) error { return nil },
		"/failure": func(c *echo.Context) error { return c.String(http.StatusUnauthorized, "who?") },
		"/bare":    func(c *echo.Context) error { return c.NoContent(http.StatusUnauthorized) },
		"/no-return": func(c *echo.Context) error { // a return is missing
			return errors.Join(c.JSON(http.StatusUnauthorized, "who?"), c.JSON(http.StatusOK, "welcome"))
		},
		"/late-failure": func(c *echo.Context) error {
			return errors.Join(c.JSON(http.StatusOK, "welcome"), c.JSON(http.StatusUnauthorized, "who?"))
		},
		"/failing": func(*echo.Context) error { return echo.ErrUnauthorized },
		"/moved":   func(*echo.Context) error { return echo.NewHTTPError(http.StatusFound, "") },
		"/slow": func(c *echo.Context) error {
			<-c.Request().Context().Done()
			return context.DeadlineExceeded
		},
	}
	for name, writer := range writers {
		for path, handler := range handlers {
			timeout := time.Hour
			if path == "/slow" {
				timeout = 50 * time.Millisecond
			}
			switch {
			case path == "/slow" && name != "a deadline": // would wait forever, or cause a data race in Echo
				continue
			// Echo's error handler responds too late
			case name == "TimeoutHandler" && (path == "/failing" || path == "/moved"):
				continue
			}
			for _, inFront := range []bool{true, false} {
				limiter, err := core.NewInProcess()
				require.NoError(t, err)
				defer limiter.Close()
				limit := core.PerHour("failures", 9)
				failed := echolimit.New(limiter, echolimit.ClientIP(),
					echolimit.CountOnly(adaptertest.Failed)).Limit(limit)
				e := echo.New() // for one request, because a late handler still uses its context
				e.Logger = slog.New(slog.DiscardHandler)
				if inFront {
					e.Use(writer(timeout), failed)
				} else {
					e.Use(failed, writer(timeout))
				}
				e.GET(path, handler)
				status := adaptertest.Get(e, path, "Accept-Encoding: gzip").StatusCode
				d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", limit)
				require.NoError(t, err)
				assert.Equal(t, adaptertest.Failed(status), d.Remaining < limit.Max,
					"%s, %d with %s in front: %v", path, status, name, inFront)
			}
		}
	}
}
