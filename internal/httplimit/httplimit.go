// Package httplimit is what every adapter does, once: it finds the key of a request, asks the limiter, and puts the
// answer into HTTP. An adapter translates its framework's types and does what the verdict says.
package httplimit

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Gate decides the requests of one middleware. C is what handlers of the framework take.
type Gate[C any] struct {
	// NoFields leaves the RateLimit fields out.
	NoFields bool
	// LegacyFields adds the X-RateLimit fields.
	LegacyFields bool
	// PlainText answers in text instead of problem bodies.
	PlainText bool

	limiter  *core.Limiter
	key      func(C) (string, error)
	template func(C) string // of the route that a request matched
	warnings warnings
}

// NewGate makes a gate. It panics if a part is missing, which is a mistake in the program.
func NewGate[C any](limiter *core.Limiter, key func(C) (string, error), template func(C) string) *Gate[C] {
	if limiter == nil {
		panic("exactlimit: no limiter: make one with core.Connect and look at its error")
	}
	if key == nil {
		panic("exactlimit: no key: say who is counted, such as ClientIP()")
	}
	return &Gate[C]{limiter: limiter, key: key, template: template}
}

// Check decides the request r of c and sets the fields of its response in h. It returns nil when the request goes on to its
// handler. The key comes first: who does not say who they are learns nothing of the limits.
func (g *Gate[C]) Check(c C, r *http.Request, h http.Header, policy func(C) (*Policy, error)) *Refusal {
	key, err := g.key(c)
	if err != nil || key == "" {
		return g.unidentified(h, err)
	}
	g.warnings.path(key, r.URL, func() string { return g.template(c) })
	p, err := policy(c)
	if err != nil {
		return g.refuse(h, internalError, err)
	}
	d, err := g.limiter.Allow(r.Context(), key, p.limits...)
	switch {
	case err == nil:
	case errors.Is(err, core.ErrUnavailable):
		if errors.Is(r.Context().Err(), context.Canceled) {
			err = nil // the client has left, which is nobody's fault
		}
		setRetryAfter(h, 1)
		return g.refuse(h, p.unavailable(), err)
	default:
		return g.refuse(h, internalError, err)
	}
	if d.Source == core.SourceFailOpen {
		return nil // nobody counted, so there is nothing to say
	}
	wait := seconds(d.RetryAfter)
	if !g.NoFields {
		var twice string
		if wait, twice = p.setFields(h, &d); twice != "" {
			g.warnings.twice(twice)
		}
	}
	if g.LegacyFields {
		setLegacyFields(h, &d, time.Now())
	}
	if d.Allowed {
		return nil
	}
	setRetryAfter(h, wait)
	refusal := g.refuse(h, exceeded(d), nil)
	refusal.Decision = d
	return refusal
}

// Refusal is a request that does not go on. The adapter must not run its handler.
type Refusal struct {
	// Decision is the limiter's; zero when it was not asked or had no answer.
	Decision core.Decision
	// Err is what went wrong in the service rather than with the client: its owner wants to know.
	Err error

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
	h.Set("Cache-Control", "no-store")
	return &Refusal{problem: problem, plainText: g.PlainText, Err: err}
}
