package adaptertest

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// span is a recorded span. It holds the attributes that were set last, or panics instead of setting any.
type span struct {
	trace.Span
	panics     bool
	attributes []attribute.KeyValue
}

func (s *span) IsRecording() bool { return true }

func (s *span) SetAttributes(attributes ...attribute.KeyValue) {
	if s.panics {
		panic("in SetAttributes")
	}
	s.attributes = attributes
}

// spans checks that the span of a request gets the decision, and that a request whose span panics is not in flight.
func spans(t *testing.T, app App) {
	limiter := inProcess(t)
	handler := app(limiter)
	for _, outcome := range []string{"allowed", "allowed", "denied"} {
		span, r := &span{}, httptest.NewRequest("GET", "/one", nil)
		handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(trace.ContextWithSpan(r.Context(), span)))
		found := map[string]string{}
		for _, a := range span.attributes {
			found[string(a.Key)] = a.Value.String()
			assert.NotContains(t, a.Value.String(), "192.0.2.1")
		}
		assert.Equal(t, "one "+outcome, found["exactlimit.limit"]+" "+found["exactlimit.outcome"])
	}
	for _, path := range []string{"/flight", "/flight/several", "/flight/failures"} {
		r := httptest.NewRequest("GET", path, nil)
		r = r.WithContext(trace.ContextWithSpan(r.Context(), &span{panics: true}))
		assert.Panics(t, func() { handler.ServeHTTP(httptest.NewRecorder(), r) })
		assert.Zero(t, inFlightNow(t, limiter, "192.0.2.1"), path)
		assert.Zero(t, charged(t, limiter, "192.0.2.1"), path)
	}
}
