package core

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// describe writes a decision into the OpenTelemetry span of a context, if the span is recorded. Of several decisions in
// one span the last one remains, which is the denial if there is one. No attribute holds the key.
//
// If the span panics, the caller gets no decision, so what the request was charged is given back.
func (l *Limiter) describe(ctx context.Context, d *Decision) {
	described := false
	defer func() {
		if !described {
			_ = l.Refund(context.Background(), *d)
		}
	}()
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(
			attribute.String("exactlimit.limit", d.Limit.Name),
			attribute.String("exactlimit.outcome", outcomeNames[d.outcome()]),
			attribute.String("exactlimit.source", d.Source.String()),
			attribute.Int("exactlimit.remaining", d.Remaining),
		)
	}
	described = true
}
