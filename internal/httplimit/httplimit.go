// Package httplimit is the part that all adapters share: it finds the key of a request, asks the limiter, and writes
// the decision as HTTP. An adapter translates its framework's types, and does what a Gate returns.
package httplimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Gate decides about the requests of one middleware. C is the framework's context, which its handlers take. Set the
// fields and call CountOnly, CostAfter and DryRun before the first request. Then a Gate is safe for concurrent use.
// Make it with NewGate. The zero Gate is not usable.
type Gate[C any] struct {
	// NoFields leaves out the RateLimit fields, and the names of limits in problem bodies.
	NoFields bool
	// LegacyFields adds the X-RateLimit fields.
	LegacyFields bool
	// PlainText writes plain text instead of problem bodies.
	PlainText bool
	// Exempt reports whether a request passes without being counted, and gets no fields. Nil exempts no request.
	Exempt func(C) bool
	// Cost returns how many units a request takes. Nil means one.
	Cost func(C) int

	limiter   *core.Limiter
	counts    func(status int) bool // nil if all requests count
	costAfter func(C) int           // nil if a request costs what was reserved for it
	key       func(C) (string, error)
	template  func(C) string
	dryRun    bool
	warnings  warnings
}

// NewGate returns a Gate. template returns the template of the route that a request matched, or "" if it matched none.
// NewGate panics if limiter or key is nil.
func NewGate[C any](limiter *core.Limiter, key func(C) (string, error), template func(C) string) *Gate[C] {
	if limiter == nil {
		panic("exactlimit: the limiter is nil: make one with core.Connect, and check its error")
	}
	if key == nil {
		panic("exactlimit: the key function is nil: write one, such as ClientIP()")
	}
	return &Gate[C]{limiter: limiter, key: key, template: template, warnings: warnings{log: limiter.Logger()}}
}

// Logger returns the limiter's logger, for warnings of the adapter's own.
func (g *Gate[C]) Logger() *slog.Logger { return g.warnings.log }

// DryRun makes the gate admit all requests.
func (g *Gate[C]) DryRun() { g.dryRun, g.limiter = true, g.limiter.DryRun() }

// CountOnly makes only those requests count whose response has a status for which counts returns true. The charges of
// the others are given back, so no instance may cache denials.
func (g *Gate[C]) CountOnly(counts func(status int) bool) {
	g.counts, g.limiter = counts, g.limiter.Provisional()
}

// CostAfter makes a request that counts cost what the function returns when the handler has finished. The charge before
// is a reservation, of which units may be given back, so no instance may cache denials.
func (g *Gate[C]) CostAfter(cost func(C) int) {
	g.costAfter, g.limiter = cost, g.limiter.Provisional()
}

// Admission is the decision about a request, with the units that were reserved for it.
type Admission struct {
	core.Decision
	reserved int
}

// NeedsSettle reports whether the adapter must call Settle after the handler.
func (g *Gate[C]) NeedsSettle() bool { return g.counts != nil || g.costAfter != nil }

// NeedsStatus reports whether Settle needs the status of the response.
func (g *Gate[C]) NeedsStatus() bool { return g.counts != nil }

// Check decides about the request r of c, and sets the fields of its response in h. If the returned Refusal is nil, the
// adapter must run the handler, and then call Settle if NeedsSettle reports true, and Release if the decision Holds.
//
// An error of the service goes only to the log. Frameworks collect errors for middleware that shows them to clients,
// often without checking whether a response was written, so an error there would become a second response, with a text
// that no client should read.
func (g *Gate[C]) Check(
	c C, r *http.Request, h http.Header, policy func(C) (*Policy, error),
) (Admission, *Refusal) {
	if g.Exempt != nil && g.Exempt(c) {
		g.limiter.CountExempt(r.Context())
		return Admission{}, nil // not charged, so Settle has nothing to do
	}
	d, refusal := g.decide(c, r, h, policy)
	// An error after the client has left is a consequence of its leaving, not a failure of the service.
	if refusal != nil && refusal.err != nil && !errors.Is(r.Context().Err(), context.Canceled) {
		message := "exactlimit: an error prevented a decision, so the request was refused"
		if refusal.DryRun {
			message = "exactlimit: an error prevented a decision, but the request was admitted because of DryRun"
		}
		g.warnings.logError(message, refusal.err)
	}
	return d, refusal
}

// decide is Check without the log. The key comes first, so that a client without a key learns nothing about the limits.
func (g *Gate[C]) decide(
	c C, r *http.Request, h http.Header, policy func(C) (*Policy, error),
) (d Admission, _ *Refusal) {
	key, err := g.key(c)
	if r.Response == noClientAddress {
		r.Response = nil
		g.warnings.noClientAddress()
	}
	if err != nil || key == "" {
		return d, g.refuseWithoutKey(h, err)
	}
	g.warnings.pathInKey(key, r.URL, func() string { return g.template(c) })
	p, err := policy(c)
	if err != nil {
		return d, g.refuse(h, internalError, err)
	}
	d.reserved = 1
	if g.Cost != nil {
		d.reserved = g.Cost(c)
	}
	d.Decision, err = g.limiter.AllowN(r.Context(), key, d.reserved, p.limits...)
	switch {
	case err == nil:
	case errors.Is(err, core.ErrUnavailable):
		refusal := g.refuse(h, p.unavailable(), err)
		if !refusal.DryRun {
			setRetryAfter(h, 1)
		}
		return d, refusal
	default:
		return d, g.refuse(h, internalError, err)
	}
	if d.Source == core.SourceFailOpen {
		return d, nil // not counted, so there is no state for the fields
	}
	retryAfter := g.describe(r.Context(), h, p, &d)
	if d.Allowed {
		return d, nil
	}
	setRetryAfter(h, retryAfter)
	return d, g.refuse(h, quotaExceeded(d.Decision), nil)
}

// describe sets the fields of a response after a decision, and returns the seconds until all limits that the fields
// describe have room. If the program's logger panics here, no handler will run, so describe releases the request.
func (g *Gate[C]) describe(ctx context.Context, h http.Header, p *Policy, d *Admission) (retryAfter int64) {
	done := false
	defer func() {
		if !done {
			g.Release(ctx, *d)
		}
	}()
	retryAfter = ceilSeconds(d.RetryAfter)
	if !g.NoFields {
		var duplicate string
		if retryAfter, duplicate = p.setFields(h, &d.Decision); duplicate != "" {
			g.warnings.duplicateLimit(duplicate)
		}
	}
	if g.LegacyFields {
		setLegacyFields(h, &d.Decision, time.Now())
	}
	done = true
	return retryAfter
}

// Settle changes the charge of the request of c to what it has cost: nothing if its status does not count, or else what
// CostAfter returns. Without CostAfter, the charge of a request that counts does not change.
//
// A request counts if its status is unknown: if status is not that of a final response, or if the client left before
// the response began, because a client that leaves makes handlers fail and could thereby choose the status. An error
// goes to the log, and then the charge may stay as it is, too.
//
// ctx is the context with which the request came, because one that is derived from it may have ended. If the response
// began while the client was connected, as begun reports, the client may leave. But if a deadline passes, another
// response may replace the handler's, so the status is unknown.
func (g *Gate[C]) Settle(ctx context.Context, c C, d Admission, status int, begun bool) {
	g.settle(ctx, c, d, status, begun, 0)
}

// Aborted must be deferred around the handler. If the handler panics with http.ErrAbortHandler, Aborted charges the
// request of c what CostAfter returns, but at least what was reserved: if a client leaves, httputil.ReverseProxy panics
// with that value, perhaps before the handler has recorded the whole cost. After another panic the charge stays as it
// is. Aborted panics again with the same value.
func (g *Gate[C]) Aborted(ctx context.Context, c C, d Admission) {
	panicked := recover()
	if panicked == nil {
		return
	}
	if panicked == http.ErrAbortHandler {
		g.settle(ctx, c, d, 0, false, d.reserved)
	}
	panic(panicked)
}

// settle is Settle with a lower bound on what CostAfter returns.
func (g *Gate[C]) settle(ctx context.Context, c C, d Admission, status int, begun bool, minCost int) {
	if !d.Allowed {
		return // exempt, or admitted without a decision because of DryRun
	}
	final := status >= http.StatusOK || status == http.StatusSwitchingProtocols
	statusKnown := final && (ctx.Err() == nil || begun && errors.Is(ctx.Err(), context.Canceled))
	cost := 0
	switch {
	case g.counts != nil && statusKnown && !g.counts(status):
	case g.costAfter == nil:
		return
	default:
		if cost = g.costAfter(c); cost < 0 {
			g.warnings.logError("exactlimit: the cost of a request is unknown, so its reservation stays charged",
				fmt.Errorf("CostAfter returned %d: it must return at least 0", cost))
			return
		}
		cost = max(cost, minCost)
	}
	if err := g.limiter.Settle(context.WithoutCancel(ctx), d.Decision, cost); err != nil {
		g.warnings.logError("exactlimit: a request was not settled, so its reservation stays charged", err)
	}
}

// Release gives back the units that d holds of in-flight limits. The adapter must call it when the handler has returned
// or panicked, whether or not the client has left. ctx is as for Settle. An error goes to the log.
func (g *Gate[C]) Release(ctx context.Context, d Admission) {
	if err := g.limiter.Release(context.WithoutCancel(ctx), d.Decision); err != nil {
		g.warnings.logError("exactlimit: a request has ended, but may count as one in flight until its lease expires",
			err)
	}
}

// Refusal is the response to a request that is refused. The adapter must not run the handler, unless DryRun is true.
type Refusal struct {
	// DryRun reports that the gate only shows what it would refuse: the adapter must run the handler.
	DryRun bool

	err       error // a failure of the service; nil if the client is the reason
	problem   problem
	plainText bool
}

// Denied reports whether the limiter denied the request, as opposed to a failure.
func (r *Refusal) Denied() bool { return r.problem.Status == http.StatusTooManyRequests }

// Write writes the response. Check has set its fields.
func (r *Refusal) Write(w http.ResponseWriter) {
	if r.plainText {
		r.problem.writeText(w)
	} else {
		r.problem.write(w)
	}
}

// refuse returns the refusal with a problem body, and sets the fields of all refusals.
func (g *Gate[C]) refuse(h http.Header, problem problem, err error) *Refusal {
	if !g.dryRun {
		h.Set("Cache-Control", "no-store")
	}
	if g.NoFields {
		problem.Violated = nil
	}
	return &Refusal{DryRun: g.dryRun, problem: problem, plainText: g.PlainText, err: err}
}
