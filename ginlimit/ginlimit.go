package ginlimit

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Middleware makes handlers that limit requests, all counted by one key. It is safe for concurrent use. Make it with New.
type Middleware struct {
	gate     httplimit.Gate[*gin.Context]
	onDenied func(*gin.Context, core.Decision)
}

// Option changes what a Middleware does.
type Option func(*Middleware)

// OnDenied writes the answer to a denied request in place of the problem body. The status is 429 unless the function writes
// another; the fields, Retry-After among them, are set before it is called.
func OnDenied(answer func(*gin.Context, core.Decision)) Option {
	return func(m *Middleware) { m.onDenied = answer }
}

// New makes a Middleware that counts by key. It panics if limiter or key is nil.
func New(limiter *core.Limiter, key KeyFunc, opts ...Option) *Middleware {
	m := &Middleware{gate: httplimit.NewGate(limiter, key)}
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
	return func(c *gin.Context) {
		refusal := m.gate.Check(c, c.Request.Context(), c.Writer.Header(), policy)
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
}
