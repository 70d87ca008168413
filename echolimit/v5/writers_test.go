package echolimit_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit/v5"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// opaque is a writer of middleware without Unwrap, so it hides Echo's Response.
type opaque struct{ w http.ResponseWriter }

func (o opaque) Header() http.Header         { return o.w.Header() }
func (o opaque) Write(p []byte) (int, error) { return o.w.Write(p) }
func (o opaque) WriteHeader(status int)      { o.w.WriteHeader(status) }

// transparent is a writer with Unwrap.
type transparent struct{ opaque }

func (t transparent) Unwrap() http.ResponseWriter { return t.w }

// hide is middleware with an opaque writer.
func hide(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c *echo.Context) error {
		c.SetResponse(opaque{c.Response()})
		return next(c)
	}
}

// If the writer of middleware hides Echo's Response, or holds responses back from it, each request gets one response,
// with the same status as without that writer, and CountOnly gets the same status.
func TestWritersWithoutUnwrap(t *testing.T) {
	for name, writer := range map[string]echo.MiddlewareFunc{
		"hidden": hide,
		"gzip":   middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1000}),
		"plain":  func(next echo.HandlerFunc) echo.HandlerFunc { return next },
	} {
		t.Run(name, func(t *testing.T) {
			limiter, err := core.NewInProcess()
			require.NoError(t, err)
			defer limiter.Close()
			e := echo.New()
			log := new(bytes.Buffer)
			e.Logger = slog.New(slog.NewTextHandler(log, nil))
			e.Use(writer)
			one := core.PerHour("one", 1)
			by := func(key echolimit.KeyFunc, opts ...echolimit.Option) echo.MiddlewareFunc {
				return echolimit.New(limiter, key, opts...).Limit(one)
			}
			e.GET("/limit", func(c *echo.Context) error {
				_, isOpaque := c.Response().(opaque)
				assert.Equal(t, name == "hidden", isOpaque, "handlers get the original writer")
				return ok(c)
			}, by(echolimit.Route()))
			e.GET("/text", ok, by(echolimit.Route(), echolimit.OnDenied(func(c *echo.Context, _ core.Decision) error {
				_, err := io.WriteString(c.Response(), "denied")
				return err
			})))
			returns := func(err error) echolimit.Option {
				return echolimit.OnDenied(func(*echo.Context, core.Decision) error { return err })
			}
			e.GET("/silent", ok, by(echolimit.Route(), returns(nil)))
			e.GET("/error", ok, by(echolimit.Route(), returns(echo.ErrForbidden)))
			e.GET("/answered", ok, by(func(c *echo.Context) (string, error) {
				return "", c.String(http.StatusTeapot, "mine")
			}))
			failed := echolimit.CountOnly(adaptertest.Failed)
			e.GET("/success", ok, by(echolimit.Route(), failed))
			e.GET("/failure", func(c *echo.Context) error {
				return c.String(http.StatusUnauthorized, "who?")
			}, by(echolimit.Route(), failed))
			e.GET("/bare", func(c *echo.Context) error { return c.NoContent(http.StatusUnauthorized) },
				by(echolimit.Route(), failed))
			e.GET("/failing", func(*echo.Context) error { return echo.ErrUnauthorized }, by(echolimit.Route(), failed))
			e.GET("/gone", func(*echo.Context) error { return echo.NewHTTPError(http.StatusGone, "") },
				by(echolimit.Route(), echolimit.CountOnly(func(status int) bool {
					return status == http.StatusUnauthorized
				})))
			e.GET("/nothing", func(*echo.Context) error { return nil }, by(echolimit.Route(), failed))
			for _, row := range []struct {
				target string
				first  int
				body   string
				second int
			}{
				{"/limit", 200, "ok", 429},
				{"/text", 200, "ok", 429},
				{"/silent", 200, "ok", 429},
				{"/error", 200, "ok", 403},
				{"/answered", 418, "mine", 418},
				{"/success", 200, "ok", 200},
				{"/failure", 401, "who?", 429},
				{"/bare", 401, "", 429},
				{"/failing", 401, "{\"message\":\"Unauthorized\"}\n", 429},
				{"/gone", 410, "{\"message\":\"Gone\"}\n", 410},
				{"/nothing", 200, "", 200},
			} {
				const gzip = "Accept-Encoding: gzip"
				first, second := adaptertest.Get(e, row.target, gzip), adaptertest.Get(e, row.target, gzip)
				body, err := io.ReadAll(first.Body)
				require.NoError(t, err)
				assert.Equal(t, row.body, string(body), row.target)
				assert.Equal(t, []int{row.first, row.second}, []int{first.StatusCode, second.StatusCode}, row.target)
			}
			assert.Empty(t, log.String())
		})
	}
}

// A response that has begun does not change, even if middleware has wrapped the writer.
func TestBegunBehindWriter(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	e := echo.New()
	begin := func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.SetResponse(transparent{opaque{c.Response()}})
			adaptertest.Begin(c.Response())
			return next(c)
		}
	}
	e.Use(begin, echolimit.New(limiter, echolimit.ClientIP()).Limit(core.PerHour("one", 1)))
	e.GET("/", ok)
	for _, want := range []string{"begun, ok", "begun, "} {
		body, err := io.ReadAll(adaptertest.Get(e, "/").Body)
		require.NoError(t, err)
		assert.Equal(t, want, string(body))
	}
}
