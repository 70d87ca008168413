// Package httplimit is what every adapter does, once: it finds the key of a request, asks the limiter, and puts the
// answer into HTTP. An adapter translates its framework's types and does what the verdict says.
package httplimit

import (
	"context"
	"errors"
	"net/http"

	"github.com/exactlimit/exactlimit/core"
)

// Gate decides the requests of one middleware. C is what handlers of the framework take.
type Gate[C any] struct {
	limiter *core.Limiter
	key     func(C) (string, error)
}

// NewGate makes a gate. It panics if a part is missing, which is a mistake in the program.
func NewGate[C any](limiter *core.Limiter, key func(C) (string, error)) Gate[C] {
	if limiter == nil {
		panic("exactlimit: no limiter: make one with core.Connect and look at its error")
	}
	if key == nil {
		panic("exactlimit: no key: say who is counted, such as ClientIP()")
	}
	return Gate[C]{limiter, key}
}

// Check decides the request of c, whose context is ctx, and sets the fields of its response in h. It returns nil when the
// request goes on to its handler. The key comes first: who does not say who they are learns nothing of the limits.
func (g *Gate[C]) Check(c C, ctx context.Context, h http.Header, policy func(C) (*Policy, error)) *Refusal {
	key, err := g.key(c)
	if err != nil || key == "" {
		return unidentified(h, err)
	}
	p, err := policy(c)
	if err != nil {
		return refuse(h, internalError, err)
	}
	d, err := g.limiter.Allow(ctx, key, p.limits...)
	switch {
	case err == nil:
	case errors.Is(err, core.ErrUnavailable):
		if errors.Is(ctx.Err(), context.Canceled) {
			err = nil // the client has left, which is nobody's fault
		}
		h.Set("Retry-After", "1")
		return refuse(h, p.unavailable(), err)
	default:
		return refuse(h, internalError, err)
	}
	if d.Source != core.SourceFailOpen { // nobody counted, so there is nothing to say
		p.setFields(h, &d)
	}
	if d.Allowed {
		return nil
	}
	h.Set("Retry-After", retryAfter(d))
	refusal := refuse(h, exceeded(d), nil)
	refusal.Decision = d
	return refusal
}

// Refusal is a request that does not go on. The adapter must not run its handler.
type Refusal struct {
	// Decision is the limiter's; zero when it was not asked or had no answer.
	Decision core.Decision
	// Err is what went wrong in the service rather than with the client: its owner wants to know.
	Err error

	problem problem
}

// Denied says that the limiter denied the request, as opposed to a failure.
func (r *Refusal) Denied() bool { return r.problem.Status == http.StatusTooManyRequests }

// Write answers the request. The fields are set already.
func (r *Refusal) Write(w http.ResponseWriter) { r.problem.write(w) }

func refuse(h http.Header, problem problem, err error) *Refusal {
	h.Set("Cache-Control", "no-store")
	return &Refusal{problem: problem, Err: err}
}
