package core

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// setSpanAttributes describes a decision in the OpenTelemetry span of a context, if the span is recorded. If a span has
// several decisions, the last one remains, which is the denial if there is one. No attribute holds the key.
//
// If the span panics, the caller gets no decision, so setSpanAttributes refunds the request.
func (l *Limiter) setSpanAttributes(ctx context.Context, d *Decision) {
	done := false
	defer func() {
		if !done {
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
	done = true
}
