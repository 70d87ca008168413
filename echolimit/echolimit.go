package echolimit

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Middleware makes middleware functions that limit requests, all counted by one key. It is safe for concurrent use. Make it
// with New.
type Middleware struct {
	gate     *httplimit.Gate[echo.Context]
	onDenied func(echo.Context, core.Decision) error
	inPre    sync.Once // said that it is in the wrong place
}

// Option changes what a Middleware does.
type Option func(*Middleware)

// OnDenied writes the answer to a denied request in place of the problem body. The status is 429 unless the function writes
// another; the fields, Retry-After among them, are set before it is called. An error it returns goes to Echo's error
// handler.
func OnDenied(answer func(echo.Context, core.Decision) error) Option {
	return func(m *Middleware) { m.onDenied = answer }
}

// PlainText answers refused requests in a line of plain text, for people who read it, instead of a problem body.
func PlainText() Option { return func(m *Middleware) { m.gate.PlainText = true } }

// NoFields leaves the RateLimit and RateLimit-Policy fields out, for services that tell nobody their limits. A denied
// request still gets Retry-After, as of the limits of this Middleware alone: how others stand that the request has passed
// is known from the fields.
func NoFields() Option { return func(m *Middleware) { m.gate.NoFields = true } }

// LegacyFields adds X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, for clients that were written for them.
// They hold one limit, so they tell of the strictest. Reset is in seconds since 1970, on this instance's clock: when there
// is more or, while something remains, when all is back.
func LegacyFields() Option { return func(m *Middleware) { m.gate.LegacyFields = true } }

// New makes a Middleware that counts by key. It panics if limiter or key is nil.
func New(limiter *core.Limiter, key KeyFunc, opts ...Option) *Middleware {
	m := &Middleware{gate: httplimit.NewGate(limiter, key, template)}
	for _, opt := range opts {
		opt(m)
	}
	return m
}

// Limit makes a middleware function that admits requests under all of limits: on an Echo, a group or a route. It panics if
// the limits make no sense, as core.Validate says.
func (m *Middleware) Limit(limits ...core.Limit) echo.MiddlewareFunc {
	return m.middleware(httplimit.Fixed[echo.Context](limits))
}

// LimitFunc is Limit with limits chosen for each request. If choose fails, or returns none or limits that make no sense,
// the request is refused with 500 and the error goes to Echo's logger.
func (m *Middleware) LimitFunc(choose func(echo.Context) ([]core.Limit, error)) echo.MiddlewareFunc {
	return m.middleware(httplimit.Chosen(choose))
}

func (m *Middleware) middleware(policy func(echo.Context) (*httplimit.Policy, error)) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return m.limit(c, next, policy) }
	}
}

// limit lets a request pass, or answers it.
func (m *Middleware) limit(c echo.Context, next echo.HandlerFunc, policy func(echo.Context) (*httplimit.Policy, error)) error {
	refusal := m.gate.Check(c, c.Request(), c.Response().Header(), policy)
	if refusal == nil {
		return m.pass(c, next)
	}
	if refusal.Err != nil {
		c.Logger().Error(refusal.Err)
	}
	switch {
	case c.Response().Committed: // a function of the user's has answered
	case refusal.Denied() && m.onDenied != nil:
		c.Response().Status = http.StatusTooManyRequests
		if err := m.onDenied(c, refusal.Decision); err != nil {
			return err
		}
		if !c.Response().Committed {
			c.Response().WriteHeader(c.Response().Status)
		}
	default:
		// Returned as an error, the answer would be replaced by that of Echo's error handler.
		refusal.Write(c.Response())
	}
	return nil
}

// pass goes on to what is behind. If that finds the route, this was before routing, in Echo.Pre.
func (m *Middleware) pass(c echo.Context, next echo.HandlerFunc) error {
	routed := c.Path() != ""
	err := next(c)
	if !routed && c.Path() != "" {
		m.inPre.Do(func() {
			slog.Warn("exactlimit: a limit runs in Echo.Pre, before there is a route: Route counts all requests together there," +
				" PathParam refuses them, and LimitRoutes limits none. Write Echo.Use instead")
		})
	}
	return err
}
