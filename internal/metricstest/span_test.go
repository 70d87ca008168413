package metricstest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Each row is a decision, and the attributes of the span in which it was made.
func TestSpans(t *testing.T) {
	ended := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(ended))
	limiter, err := core.Connect(redistest.Shared(t).URL(),
		core.WithPrefix(redistest.Prefix()), core.WithTimeout(time.Minute))
	require.NoError(t, err)
	defer limiter.Close()
	login, site := core.PerHour("login", 2), core.PerDay("site", 9)
	guard := core.Limit{Name: "guard", Max: 1, Window: time.Hour, Ban: time.Hour}
	attributes := func(ask func(ctx context.Context)) string {
		ctx, span := provider.Tracer("test").Start(context.Background(), "request")
		ask(ctx)
		span.End()
		text := ""
		for _, a := range ended.Ended()[len(ended.Ended())-1].Attributes() {
			text += fmt.Sprint(a.Key, "=", a.Value.String(), " ")
		}
		return text
	}
	inProcess, err := core.NewInProcess()
	require.NoError(t, err)
	defer inProcess.Close()
	away, err := core.Connect(fmt.Sprint("redis://127.0.0.1:", redistest.FreePort(t)),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer away.Close()
	for i, row := range []struct {
		limiter *core.Limiter
		limits  []core.Limit
		want    string
	}{
		{limiter, []core.Limit{login}, "login allowed redis 1"},
		{limiter, []core.Limit{site, login}, "login allowed redis 0"},
		{limiter, []core.Limit{site, login}, "login denied denial-cache 0"},
		{limiter, []core.Limit{login, site}, "login denied redis 0"},
		{limiter, []core.Limit{site}, "site allowed redis 7"},
		{limiter, []core.Limit{guard}, "guard allowed redis 0"},
		{limiter, []core.Limit{guard}, "guard banned redis 0"},
		{limiter, []core.Limit{guard}, "guard banned denial-cache 0"},
		{limiter.DryRun(), []core.Limit{guard}, "guard dry_run denial-cache 0"},
		{inProcess, []core.Limit{site, login}, "login allowed in-process 1"},
		{away, []core.Limit{site}, "site allowed in-process 8"},
		{away.OnFailure(core.FailOpen), []core.Limit{site}, "site allowed fail-open 9"},
	} {
		var limit, outcome, source, remaining string
		_, err := fmt.Sscan(row.want, &limit, &outcome, &source, &remaining)
		require.NoError(t, err)
		want := "exactlimit.limit=" + limit + " exactlimit.outcome=" + outcome + " exactlimit.source=" + source +
			" exactlimit.remaining=" + remaining + " "
		assert.Equal(t, want, attributes(func(ctx context.Context) {
			_, err := row.limiter.Allow(ctx, "a secret key", row.limits...)
			require.NoError(t, err)
		}), i)
	}
	assert.Contains(t, attributes(func(ctx context.Context) {
		for _, limit := range []core.Limit{site, login} { // as by two middlewares
			_, err := limiter.Allow(ctx, "a secret key", limit)
			require.NoError(t, err)
		}
	}), "exactlimit.limit=login exactlimit.outcome=denied ")
	assert.Empty(t, attributes(func(ctx context.Context) {
		_, err := limiter.Peek(ctx, "a secret key", site)
		require.NoError(t, err)
		_, err = limiter.Allow(ctx, "", site)
		require.ErrorIs(t, err, core.ErrInvalid)
		_, err = away.OnFailure(core.FailClosed).Allow(ctx, "a secret key", site)
		require.ErrorIs(t, err, core.ErrUnavailable)
	}), "no decision on a request")
}
