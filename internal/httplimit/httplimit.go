// Package httplimit is what every adapter does, once: it finds the key of a request, asks the limiter, and puts the
// answer into HTTP. An adapter translates its framework's types and does what the verdict says.
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

// Gate decides the requests of one middleware. C is what handlers of the framework take.
type Gate[C any] struct {
	// NoFields leaves the RateLimit fields out, and the names of limits in problem bodies.
	NoFields bool
	// LegacyFields adds the X-RateLimit fields.
	LegacyFields bool
	// PlainText answers in text instead of problem bodies.
	PlainText bool
	// Exempt reports whether a request is neither counted nor told of limits; nil means that none is.
	Exempt func(C) bool
	// Cost is how many units a request takes; nil means one.
	Cost func(C) int

	limiter   *core.Limiter
	counts    func(status int) bool // nil if all requests count
	costAfter func(C) int           // nil if a request costs what it was charged
	key       func(C) (string, error)
	template  func(C) string // of the route that a request matched
	dryRun    bool
	warnings  warnings
}

// NewGate makes a gate. It panics if a part is missing, which is a mistake in the program.
func NewGate[C any](limiter *core.Limiter, key func(C) (string, error), template func(C) string) *Gate[C] {
	if limiter == nil {
		panic("exactlimit: no limiter: make one with core.Connect and look at its error")
	}
	if key == nil {
		panic("exactlimit: no key: write what requests are counted by, such as ClientIP()")
	}
	return &Gate[C]{limiter: limiter, key: key, template: template, warnings: warnings{log: limiter.Logger()}}
}

// Logger is where to tell of mistakes in the program.
func (g *Gate[C]) Logger() *slog.Logger { return g.warnings.log }

// DryRun has the gate let all requests pass.
func (g *Gate[C]) DryRun() { g.dryRun, g.limiter = true, g.limiter.DryRun() }

// CountOnly has only those requests count whose answer has a status that counts chooses. The charges of the others are given
// back, so no instance may remember that a client has no room.
func (g *Gate[C]) CountOnly(counts func(status int) bool) {
	g.counts, g.limiter = counts, g.limiter.Provisional()
}

// CostAfter has a request that counts cost what the function says when its handler has finished. What it is charged
// before is an estimate, of which units are given back, so no instance may remember that a client has no room.
func (g *Gate[C]) CostAfter(cost func(C) int) {
	g.costAfter, g.limiter = cost, g.limiter.Provisional()
}

// Admission is what Check decides, with the units that were reserved for the request.
type Admission struct {
	core.Decision
	cost int
}

// Settles reports whether what Check returns is due for Settle.
func (g *Gate[C]) Settles() bool { return g.counts != nil || g.costAfter != nil }

// AwaitsStatus reports whether Settle needs to know the status of the answer.
func (g *Gate[C]) AwaitsStatus() bool { return g.counts != nil }

// Check decides the request r of c and sets the fields of its response in h. It returns no refusal if the request
// goes on to its handler, after which its admission is due for Settle if the gate settles.
//
// An error of the service goes to the log and nowhere else. Frameworks collect errors for middleware that shows them to
// clients, often without looking whether the request has been answered already, so an error there would become a second
// answer that tells what no client should know.
func (g *Gate[C]) Check(
	c C, r *http.Request, h http.Header, policy func(C) (*Policy, error),
) (Admission, *Refusal) {
	if g.Exempt != nil && g.Exempt(c) {
		g.limiter.CountExempt(r.Context())
		return Admission{}, nil // without a charge, so there is none to give back
	}
	d, refusal := g.decide(c, r, h, policy)
	// What fails after the client has left fails because of that, and is no one's fault.
	if refusal != nil && refusal.err != nil && !errors.Is(r.Context().Err(), context.Canceled) {
		message := "exactlimit: the service failed to limit a request, which was refused"
		if refusal.Waived {
			message = "exactlimit: the service failed to limit a request, which passed because this is a dry run"
		}
		g.warnings.failed(message, refusal.err)
	}
	return d, refusal
}

// decide is Check without the log. The key comes first: a client that does not say who it is learns nothing of the
// limits.
func (g *Gate[C]) decide(
	c C, r *http.Request, h http.Header, policy func(C) (*Policy, error),
) (d Admission, _ *Refusal) {
	key, err := g.key(c)
	if r.Response == unnamed {
		r.Response = nil
		g.warnings.proxy()
	}
	if err != nil || key == "" {
		return d, g.unidentified(h, err)
	}
	g.warnings.path(key, r.URL, func() string { return g.template(c) })
	p, err := policy(c)
	if err != nil {
		return d, g.refuse(h, internalError, err)
	}
	d.cost = 1
	if g.Cost != nil {
		d.cost = g.Cost(c)
	}
	d.Decision, err = g.limiter.AllowN(r.Context(), key, d.cost, p.limits...)
	switch {
	case err == nil:
	case errors.Is(err, core.ErrUnavailable):
		refusal := g.refuse(h, p.unavailable(), err)
		if !refusal.Waived {
			setRetryAfter(h, 1)
		}
		return d, refusal
	default:
		return d, g.refuse(h, internalError, err)
	}
	if d.Source == core.SourceFailOpen {
		return d, nil // nobody counted, so there is nothing to say
	}
	wait := g.tell(r.Context(), h, p, &d)
	if d.Allowed {
		return d, nil
	}
	setRetryAfter(h, wait)
	return d, g.refuse(h, exceeded(d.Decision), nil)
}

// tell sets the fields of a response after a decision, and returns how many seconds pass until all limits that they
// tell of have room. If the program's logger panics here, no handler will run, so the request is no longer in flight.
func (g *Gate[C]) tell(ctx context.Context, h http.Header, p *Policy, d *Admission) (wait int64) {
	told := false
	defer func() {
		if !told {
			g.Release(ctx, *d)
		}
	}()
	wait = seconds(d.RetryAfter)
	if !g.NoFields {
		var twice string
		if wait, twice = p.setFields(h, &d.Decision); twice != "" {
			g.warnings.twice(twice)
		}
	}
	if g.LegacyFields {
		setLegacyFields(h, &d.Decision, time.Now())
	}
	told = true
	return wait
}

// Settle charges the request of c what it has cost: nothing if the status of its answer does not count, or else what
// CostAfter says. Without CostAfter, it stays charged as it is.
//
// It counts where the status is not known: if status is not that of a final answer, and if the client has left before
// the answer has begun, because leaving makes handlers fail and so is a way to choose the status. An error goes to the
// log, and then the charge may stay as it is too.
//
// ctx is the context that the request came with: what handlers derive from it may end with them. Once the answer has
// begun, as begun reports, the client may leave; a deadline that passes may still replace what a handler has answered.
func (g *Gate[C]) Settle(ctx context.Context, c C, d Admission, status int, begun bool) {
	g.settle(ctx, c, d, status, begun, 0)
}

// Aborted must be deferred around the handler. If that panics with http.ErrAbortHandler, the request of c is charged
// what CostAfter says, but no less than was reserved: a client that leaves makes httputil.ReverseProxy panic so,
// perhaps before the handler has noted all that the request has cost. Any panic goes on, and another leaves the charge
// as it is.
func (g *Gate[C]) Aborted(ctx context.Context, c C, d Admission) {
	panicked := recover()
	if panicked == nil {
		return
	}
	if panicked == http.ErrAbortHandler {
		g.settle(ctx, c, d, 0, false, d.cost)
	}
	panic(panicked)
}

// settle is Settle where what CostAfter says is at least a number of units.
func (g *Gate[C]) settle(ctx context.Context, c C, d Admission, status int, begun bool, least int) {
	if !d.Allowed {
		return // it is exempt, or passed an error because this is a dry run
	}
	final := status >= http.StatusOK || status == http.StatusSwitchingProtocols
	there := ctx.Err() == nil || begun && errors.Is(ctx.Err(), context.Canceled)
	cost := 0
	switch {
	case g.counts != nil && final && there && !g.counts(status):
	case g.costAfter == nil:
		return
	default:
		if cost = g.costAfter(c); cost < 0 {
			g.warnings.failed("exactlimit: it is not known what a request has cost, so it stays charged as it was",
				fmt.Errorf("CostAfter returned %d: it must return at least 0", cost))
			return
		}
		cost = max(cost, least)
	}
	if err := g.limiter.Settle(context.WithoutCancel(ctx), d.Decision, cost); err != nil {
		g.warnings.failed("exactlimit: a request was not settled, so it stays charged as it was", err)
	}
}

// Release ends a request whose decision holds units of a limit of requests in flight, when its handler has returned or
// panicked, whether its client is still there or not. ctx is as for Settle. An error goes to the log.
func (g *Gate[C]) Release(ctx context.Context, d Admission) {
	if err := g.limiter.Release(context.WithoutCancel(ctx), d.Decision); err != nil {
		g.warnings.failed("exactlimit: a request has ended and still counts as one in flight, until its lease ends at the"+
			" latest", err)
	}
}

// Refusal is a request that does not go on. The adapter must not run its handler, unless the refusal is waived.
type Refusal struct {
	// Waived says that the request goes on all the same, as this is a dry run.
	Waived bool

	err       error // what went wrong in the service rather than with the client
	problem   problem
	plainText bool
}

// Denied says that the limiter denied the request, as opposed to a failure.
func (r *Refusal) Denied() bool { return r.problem.Status == http.StatusTooManyRequests }

// Write answers the request. The fields are set already.
func (r *Refusal) Write(w http.ResponseWriter) {
	if r.plainText {
		r.problem.writeText(w)
	} else {
		r.problem.write(w)
	}
}

func (g *Gate[C]) refuse(h http.Header, problem problem, err error) *Refusal {
	if !g.dryRun {
		h.Set("Cache-Control", "no-store")
	}
	if g.NoFields {
		problem.Violated = nil
	}
	return &Refusal{Waived: g.dryRun, problem: problem, plainText: g.PlainText, err: err}
}
