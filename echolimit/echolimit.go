package echolimit

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// KeyFunc says who a request is from. Different strings are different clients. An empty string says that the request does
// not tell, and an error that it could not be found out. Either way it is refused with 401: it neither passes uncounted nor
// shares a budget with others like it. The client is not shown the text of an error; it goes to Echo's logger.
//
// Begin a key of your own with what it is, as in "user:" + id, so that no id can pass for a key of another kind. Keys are
// part of the names of logs, so hash what is secret.
type KeyFunc func(echo.Context) (string, error)

// Middleware makes middleware functions that limit requests, all counted by one key. It is safe for concurrent use. Make it with New.
type Middleware struct {
	gate     httplimit.Gate[echo.Context]
	onDenied func(echo.Context, core.Decision) error
}

// Option changes what a Middleware does.
type Option func(*Middleware)

// OnDenied writes the answer to a denied request in place of the problem body. The status is 429 unless the function writes
// another; the fields, Retry-After among them, are set before it is called. An error it returns goes to Echo's error handler.
func OnDenied(answer func(echo.Context, core.Decision) error) Option {
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
		return func(c echo.Context) error {
			refusal := m.gate.Check(c, c.Request().Context(), c.Response().Header(), policy)
			if refusal == nil {
				return next(c)
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
	}
}

// ClientIP counts by the address of the socket's peer, IPv6 by /64. It trusts no header, unlike echo.Context.RealIP,
// which by default believes X-Forwarded-For from anyone. Behind a proxy every request comes from the proxy's address:
// count by something else there, for now.
func ClientIP() KeyFunc { return of(httplimit.ClientIP) }

// Header counts by the value of a header field, such as an API key. Only a hash of the value leaves the process. A request
// without it is refused with 401. A client may write any value, so have it authenticated before, or limit by ClientIP as
// well: who invents a new value for each request is a new client each time. It panics if name is no field's name.
func Header(name string) KeyFunc { return of(httplimit.Header(name)) }

// FirstOf counts by the first of keys that a request has, such as a user and otherwise the address. Its clients are its own:
// none of one key is the same as one of another, or as one that the same key counts outside of FirstOf. It panics if there
// are no keys or one is nil.
func FirstOf(keys ...KeyFunc) KeyFunc { return httplimit.FirstOf(keys) }

func of(key func(*http.Request) (string, error)) KeyFunc {
	return func(c echo.Context) (string, error) { return key(c.Request()) }
}
