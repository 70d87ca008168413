package ginlimit

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// Middleware makes handlers that limit requests, all counted by one key. It is safe for concurrent use. Make it with
// New. The zero Middleware is not usable.
type Middleware struct {
	gate     *httplimit.Gate[*gin.Context]
	onDenied func(*gin.Context, core.Decision)
}

// Option changes what a Middleware does. Without options, it answers denied requests with 429 and a problem body, and
// sets the RateLimit fields. Functions that are given to options are called concurrently.
type Option func(*Middleware)

// OnDenied sets a function that writes the response to a denied request, in place of the problem body. The status is
// 429 unless the function writes another. The fields, including Retry-After, are set before it is called. Before the
// call, up to 256 KB of the request's body are read, because a proxy that is still sending the body when the
// connection closes does not pass the response on.
func OnDenied(answer func(*gin.Context, core.Decision)) Option {
	return func(m *Middleware) { m.onDenied = answer }
}

// PlainText answers refused requests with a line of plain text, for human readers, instead of a problem body.
func PlainText() Option { return func(m *Middleware) { m.gate.PlainText = true } }

// NoFields leaves out the RateLimit and RateLimit-Policy fields, for services that hide their limits from clients.
// The bodies of refused requests do not name the limits either. A denied request still gets Retry-After, but only
// for the limits of this Middleware, because other limits that the request has passed are known only from the
// fields.
func NoFields() Option { return func(m *Middleware) { m.gate.NoFields = true } }

// LegacyFields adds X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, for clients that know only
// these. There is only one of each, so they describe the strictest limit. Reset is in seconds since 1970, on this
// instance's clock: the time at which more is available or, while something remains, at which the whole budget is.
func LegacyFields() Option { return func(m *Middleware) { m.gate.LegacyFields = true } }

// Cost sets a function that returns how many units a request takes, instead of one. A report may cost ten. A cost
// below 1 or above a limit's Max is a mistake of the service, and the request is refused with 500. Quotas in the
// RateLimit fields are in units.
func Cost(cost func(*gin.Context) int) Option { return func(m *Middleware) { m.gate.Cost = cost } }

// Exempt sets a function that returns true for requests that are not limited, such as health checks, or requests of
// your own users. Other middleware, such as Echo's, calls this a Skipper. An exempt request is not counted and gets
// no RateLimit fields, whether it has a key or not. The metric exactlimit.exempt counts it.
//
// Do not decide by anything that a client can write, such as a header, the method, or the path, which is
// "/users/healthz" if a user has that name: a client that finds it out has no limits. Decide by what your
// authentication has found, or by the route that was matched, c.FullPath.
func Exempt(exempt func(*gin.Context) bool) Option {
	return func(m *Middleware) { m.gate.Exempt = exempt }
}

// CountOnly counts only those requests whose response has a status for which the function returns true, such as failed
// logins:
//
//	ginlimit.CountOnly(func(status int) bool { return status == http.StatusUnauthorized })
//
// Each request is charged before its handler runs, and the charge is given back afterwards if the status does not
// count. So many requests at once cannot exceed the limit. The charge stays if the status is unknown: if the client
// has left before the response began, if the request's deadline has passed, if a handler has panicked, or if there
// are errors in c.Errors and no response has been written. So register the limiter before middleware that answers
// such errors. If Redis does not take a charge back in time it stays, and the limiter logs it.
//
// Units that one instance gives back are available to all instances at once, so denials are not cached, and each
// denial is a call to Redis: see core.Limiter.Provisional.
//
// With a limit that has a Ban, CountOnly guards against password guessing. Requests in flight count, and so may begin a
// ban. So either Max leaves room for the requests that an honest client makes at once, or another Middleware, with the
// same key and core.InFlight(name, 1, lease), runs first. It admits one request at a time, and bans no client. If the
// key is the account that a request names, any client can begin a ban that locks out the owner of the account: join it
// with ClientIP to prevent that.
func CountOnly(counts func(status int) bool) Option {
	return func(m *Middleware) { m.gate.CountOnly(counts) }
}

// CostAfter sets a function that returns what a request has cost when its handler has finished, such as the tokens
// that a language model has used. The request first reserves what Cost returns, or one unit. The reservation should
// be an estimate of the cost, so that many requests at once cannot exceed the limit. The difference is given back or
// charged, even beyond a limit's Max: then the client waits until enough has expired. The request counts as of its
// admission, and what it has cost beyond the reservation as of the end of its handler.
//
// The function is called once for each admitted request, when its handler, or its stream, has finished. It is also
// called if the client has left, because the work was done, so let handlers record what they have used as they go. If a
// handler panics, the function is not called, and the reservation stays charged. Only after a panic with
// http.ErrAbortHandler, with which httputil.ReverseProxy reacts to a client that leaves, the function is called, and
// the request costs at least what was reserved. So register middleware that recovers from panics before the limiter:
// after it, a panic looks like a handler that has returned. The reservation also stays if the function returns less
// than 0, which is a mistake of the service, or if Redis does not answer in time. The limiter logs it. 0 gives
// back all.
//
// With CountOnly, a request whose status does not count costs nothing. The function is called for the others,
// including those whose status is unknown.
//
// Units that one instance gives back are available to all instances at once, so denials are not cached, and each
// denial is a call to Redis: see core.Limiter.Provisional.
func CostAfter(cost func(*gin.Context) int) Option {
	return func(m *Middleware) { m.gate.CostAfter(cost) }
}

// DryRun denies nothing, to show what limits would do: in the metrics, in Decision.DryRun and, without NoFields, in
// the RateLimit fields. A request that would be refused because of an error is also admitted, and the error goes to
// the limiter's logger.
func DryRun() Option { return func(m *Middleware) { m.gate.DryRun() } }

// New returns a Middleware that counts by key. It panics if limiter or key is nil.
func New(limiter *core.Limiter, key KeyFunc, opts ...Option) *Middleware {
	m := &Middleware{gate: httplimit.NewGate(limiter, key, (*gin.Context).FullPath)}
	for _, opt := range opts {
		opt(m)
	}
	return m
}

// Limit returns a handler that admits requests under all of limits, on an engine, a group or a route. It panics if the
// limits are invalid: see core.Validate.
//
// A request under a limit that is core.InFlight counts in it until its handler has returned or panicked. Register
// middleware that does not wait for its handler, such as http.TimeoutHandler or Echo's Timeout, before the limiter:
// after it, a request that has timed out would no longer count, although its handler still runs, and CostAfter is
// called too early. Do not call the returned handler from the last handler of a chain: the request would be released,
// and CostAfter called, before its work is done.
func (m *Middleware) Limit(limits ...core.Limit) gin.HandlerFunc {
	return m.handler(httplimit.FixedPolicy[*gin.Context](limits))
}

// LimitFunc is Limit with limits that a function chooses for each request. If choose fails, or returns no limits or
// invalid ones, the request is refused with 500, and the error goes to the limiter's logger.
//
// Do not let a client choose the deadline of the request's context, for instance by a header. If the deadline passes
// before Redis has responded, core.FailLocal lets this instance decide, and each instance has its own budget.
// Nothing in this package derives a deadline from what clients send.
func (m *Middleware) LimitFunc(choose func(*gin.Context) ([]core.Limit, error)) gin.HandlerFunc {
	return m.handler(httplimit.PolicyFunc(choose))
}

func (m *Middleware) handler(policy func(*gin.Context) (*httplimit.Policy, error)) gin.HandlerFunc {
	return func(c *gin.Context) { m.limit(c, policy) }
}

// limit lets the next handlers run, or aborts and writes the response to a refused request.
func (m *Middleware) limit(c *gin.Context, policy func(*gin.Context) (*httplimit.Policy, error)) {
	d, refusal := m.gate.Check(c, c.Request, c.Writer.Header(), policy)
	if refusal == nil || refusal.DryRun {
		if d.Holds() {
			defer m.gate.Release(c.Request.Context(), d)
		}
		switch {
		case m.gate.NeedsSettle():
			m.settle(c, d)
		case d.Holds():
			c.Next()
		}
		return
	}
	c.Abort()
	httplimit.Drain(c.Writer, c.Request)
	switch {
	case c.Writer.Written(): // a function of the service, such as the key function, wrote it
	case refusal.Denied() && m.onDenied != nil:
		c.Status(http.StatusTooManyRequests)
		m.onDenied(c, d.Decision)
	default:
		refusal.Write(c.Writer)
	}
}

// settle runs the next handlers, and then charges the request what it has cost.
func (m *Middleware) settle(c *gin.Context, d httplimit.Admission) {
	recorder := &statusRecorder{ResponseWriter: c.Writer, ctx: c.Request.Context(), status: c.Writer.Status()}
	c.Writer = recorder
	defer m.gate.Aborted(recorder.ctx, c, d)
	c.Next()
	switch {
	case len(c.Errors) > 0 && !recorder.Written():
		recorder.status = 0 // outer middleware will choose it
	case !recorder.begun && recorder.Written(): // without the recorder, as by Engine.HandleContext
		recorder.status = recorder.Status()
	}
	m.gate.Settle(recorder.ctx, c, d, recorder.status, recorder.connected)
}

// statusRecorder records the status with which a response begins. The writers of middleware do not always return it:
// that of gin-contrib/gzip returns the last status that was written, even after the response began. A writer that holds
// the response back may return the status of Gin's writer behind it, to which nothing has been written yet.
type statusRecorder struct {
	gin.ResponseWriter
	ctx       context.Context // of the request
	status    int             // 0 if it is unknown
	begun     bool
	connected bool // whether the client was connected when the response began
}

func (r *statusRecorder) begin() {
	if !r.begun {
		r.begun, r.connected = true, r.ctx.Err() == nil
	}
}

func (r *statusRecorder) WriteHeader(status int) {
	switch {
	case status <= 0 || status == r.status || r.Written(): // Gin's writer ignores it
	case r.begun: // a second status: a writer that holds the response back may send either
		r.status = 0
	default:
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *statusRecorder) WriteHeaderNow() {
	r.begin()
	r.ResponseWriter.WriteHeaderNow()
}

func (r *statusRecorder) Write(p []byte) (int, error) {
	r.begin()
	return r.ResponseWriter.Write(p)
}

func (r *statusRecorder) WriteString(s string) (int, error) {
	r.begin()
	return r.ResponseWriter.WriteString(s)
}

func (r *statusRecorder) Flush() {
	r.begin()
	r.ResponseWriter.Flush()
}

// Unwrap is used by http.ResponseController.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
