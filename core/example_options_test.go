package core_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/exactlimit/exactlimit/core"
)

func ExampleLimit() {
	fmt.Println(core.PerSecond("search", 5) == core.Limit{Name: "search", Max: 5, Window: time.Second})
	fmt.Println(core.PerMinute("login", 5) == core.Limit{Name: "login", Max: 5, Window: time.Minute})
	fmt.Println(core.PerHour("mail", 50) == core.Limit{Name: "mail", Max: 50, Window: time.Hour})
	fmt.Println(core.PerDay("upload", 100) == core.Limit{Name: "upload", Max: 100, Window: 24 * time.Hour})
	// Output:
	// true
	// true
	// true
	// true
}

// A client that is denied once is denied for an hour, although there is room again in a minute.
func ExampleLimit_ban() {
	limiter, err := core.NewInProcess()
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	guesses := core.Limit{Name: "guesses", Max: 2, Window: time.Minute, Ban: time.Hour}
	for range 3 {
		d, err := limiter.Allow(context.Background(), "user:42", guesses)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Banned, d.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true false 0s
	// true false 1m0s
	// false true 1h0m0s
}

// Limits that are read from a file are checked when they are read.
func ExampleValidate() {
	err := core.Validate(core.PerMinute("login", 0))
	fmt.Println(errors.Is(err, core.ErrInvalid))
	fmt.Println(err)
	// Output:
	// true
	// exactlimit: invalid: limit "login": Max is 0, it must be at least 1
}

func ExampleNewInProcess() {
	limiter, err := core.NewInProcess()
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	d, err := limiter.Allow(context.Background(), "user:42", core.PerSecond("search", 5))
	fmt.Println(d.Allowed, d.Remaining, d.Source, err)
	// Output: true 4 in-process <nil>
}

func ExampleLimiter_Close() {
	limiter, err := core.NewInProcess()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(limiter.Close(), limiter.Close()) // twice does nothing
	_, err = limiter.Allow(context.Background(), "user:42", core.PerSecond("search", 5))
	fmt.Println(errors.Is(err, core.ErrUnavailable))
	// Output:
	// <nil> <nil>
	// true
}

// An adapter lets a request pass without a decision, and the metrics show it.
func ExampleLimiter_CountExempt() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	passes := func(ctx context.Context, user string) bool {
		if user == "monitor" {
			limiter.CountExempt(ctx)
			return true
		}
		d, err := limiter.Allow(ctx, "user:"+user, core.PerMinute("site", 1))
		return err == nil && d.Allowed
	}
	for _, user := range []string{"ann", "ann", "monitor", "monitor"} {
		fmt.Println(user, passes(context.Background(), user))
	}
	// Output:
	// ann true
	// ann false
	// monitor true
	// monitor true
}

// A limit is tried out before it denies any request.
func ExampleLimiter_DryRun() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	trial, limit := limiter.DryRun(), core.PerHour("report", 2)
	for range 3 {
		d, err := trial.Allow(context.Background(), "user:42", limit)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.DryRun, d.Remaining)
	}
	// Output:
	// true false 1
	// true false 0
	// true true 0
}

func ExampleDecision() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerHour("report", 1)
	limiter.Allow(ctx, "user:42", limit)
	d, err := limiter.Allow(ctx, "user:42", limit)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allowed, d.Limit.Name, d.Remaining, d.RetryAfter.Round(time.Minute), d.Source)
	// Output: false report 0 1h0m0s in-process
}

// Staging and production share a Redis and no limits.
func ExampleWithPrefix() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL"), core.WithPrefix("shop-staging"))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

// A hundred thousand denials are remembered for up to ten seconds, since many clients go on asking and limits are per
// hour.
func ExampleWithDenialCache() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL"), core.WithDenialCache(100_000, 10*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

// Whatever Redis and the network do, a decision is there after 50 ms.
func ExampleWithTimeout() {
	limiter, err := core.Connect("redis://127.0.0.1:1", core.WithTimeout(50*time.Millisecond),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	d, err := limiter.Allow(context.Background(), "user:42", core.PerSecond("search", 5))
	fmt.Println(d.Allowed, d.Source, err)
	// Output: true in-process <nil>
}

func ExampleWithMeterProvider() {
	provider := noop.NewMeterProvider() // of a service: that of OpenTelemetry's SDK
	limiter, err := core.NewInProcess(core.WithMeterProvider(provider))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

func ExampleSource_String() {
	fmt.Println(core.SourceRedis, core.SourceInProcess, core.SourceDenialCache, core.SourceFailOpen)
	// Output: redis in-process denial-cache fail-open
}

func ExampleFailurePolicy_String() {
	var policy core.FailurePolicy
	fmt.Println(policy, core.FailOpen, core.FailClosed)
	// Output: fail-local fail-open fail-closed
}

// In place of redis_rate.
func Example_fromRedisRate() {
	ctx := context.Background()
	limiter, err := core.Connect(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	d, err := limiter.Allow(ctx, "user:42", core.PerMinute("api", 100))
	if err == nil && !d.Allowed {
		log.Print("come back after ", d.RetryAfter)
	}
}

func ExamplePerSecond() {
	fmt.Println(core.PerSecond("mail", 5) == core.Limit{Name: "mail", Max: 5, Window: time.Second})
	// Output: true
}

func ExamplePerMinute() {
	fmt.Println(core.PerMinute("mail", 5) == core.Limit{Name: "mail", Max: 5, Window: time.Minute})
	// Output: true
}

func ExamplePerHour() {
	fmt.Println(core.PerHour("mail", 5) == core.Limit{Name: "mail", Max: 5, Window: time.Hour})
	// Output: true
}

func ExamplePerDay() {
	fmt.Println(core.PerDay("mail", 5) == core.Limit{Name: "mail", Max: 5, Window: 24 * time.Hour})
	// Output: true
}

func ExampleLimiter_Logger() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	limiter, _ := core.NewInProcess(core.WithLogger(log))
	defer limiter.Close()
	fmt.Println(limiter.Logger() == log)
	// Output: true
}

// Units that are often given back, such as those of logins that succeed.
func ExampleLimiter_Provisional() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx := context.Background()
	login, _ := limiter.Provisional().Allow(ctx, "user:42", core.PerMinute("login", 1))
	limiter.Refund(ctx, login) // the password was right
	again, _ := limiter.Provisional().Allow(ctx, "user:42", core.PerMinute("login", 1))
	fmt.Println(again.Allowed)
	// Output: true
}
