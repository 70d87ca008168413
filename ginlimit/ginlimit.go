package ginlimit

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Middleware makes handlers that limit requests, all counted by one key. It is safe for concurrent use. Make it with New.
type Middleware struct {
	gate     *httplimit.Gate[*gin.Context]
	onDenied func(*gin.Context, core.Decision)
}

// Option changes what a Middleware does.
type Option func(*Middleware)

// OnDenied writes the answer to a denied request in place of the problem body. The status is 429 unless the function writes
// another; the fields, Retry-After among them, are set before it is called.
func OnDenied(answer func(*gin.Context, core.Decision)) Option {
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
	m := &Middleware{gate: httplimit.NewGate(limiter, key, (*gin.Context).FullPath)}
	for _, opt := range opts {
		opt(m)
	}
	return m
}

// Limit makes a handler that admits requests under all of limits: on an engine, a group or a route. It panics if the
// limits make no sense, as core.Validate says.
func (m *Middleware) Limit(limits ...core.Limit) gin.HandlerFunc {
	return m.handler(httplimit.Fixed[*gin.Context](limits))
}

// LimitFunc is Limit with limits chosen for each request. If choose fails, or returns none or limits that make no sense,
// the request is refused with 500 and the error is added to c.Errors.
func (m *Middleware) LimitFunc(choose func(*gin.Context) ([]core.Limit, error)) gin.HandlerFunc {
	return m.handler(httplimit.Chosen(choose))
}

func (m *Middleware) handler(policy func(*gin.Context) (*httplimit.Policy, error)) gin.HandlerFunc {
	return func(c *gin.Context) { m.limit(c, policy) }
}

// limit lets a request pass, or aborts and answers it.
func (m *Middleware) limit(c *gin.Context, policy func(*gin.Context) (*httplimit.Policy, error)) {
	refusal := m.gate.Check(c, c.Request, c.Writer.Header(), policy)
	if refusal == nil {
		return
	}
	c.Abort()
	if refusal.Err != nil {
		_ = c.Error(refusal.Err)
	}
	switch {
	case c.Writer.Written(): // a function of the user's has answered
	case refusal.Denied() && m.onDenied != nil:
		c.Status(http.StatusTooManyRequests)
		m.onDenied(c, refusal.Decision)
	default:
		refusal.Write(c.Writer)
	}
}
