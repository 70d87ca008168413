package core_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/core"
)

func Example() {
	limiter, err := core.NewInProcess()
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()

	send := func(ctx context.Context) error {
		decision, err := limiter.Allow(ctx, "user:42", core.PerMinute("send", 3))
		if err != nil {
			return err // no decision: an argument is invalid, or the context was cancelled
		}
		if !decision.Allowed {
			return fmt.Errorf("try again in %v", decision.RetryAfter)
		}
		return nil
	}
	for range 4 {
		fmt.Println(send(context.Background()) == nil)
	}
	// Output:
	// true
	// true
	// true
	// false
}

func ExampleConnect() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL"), core.WithPrefix("shop-staging"))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

func ExampleOnFailure() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL"), core.OnFailure(core.FailOpen),
		core.WithTimeout(50*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

// Each instance limits by itself while Redis is away, but for what must rather be closed then.
func ExampleLimiter_OnFailure() {
	limiter, err := core.Connect("redis://127.0.0.1:1", core.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerMinute("demo", 1)
	for range 2 {
		d, err := limiter.Allow(ctx, "user:42", limit)
		fmt.Println(d.Allowed, d.Source, err)
	}
	_, err = limiter.OnFailure(core.FailClosed).Allow(ctx, "user:42", limit)
	fmt.Println(errors.Is(err, core.ErrUnavailable))
	// Output:
	// true in-process <nil>
	// false in-process <nil>
	// true
}

func ExampleLimiter_Wait() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	send := func(ctx context.Context) error {
		if _, err := limiter.Wait(ctx, "mailer", core.PerSecond("send", 10)); err != nil {
			return err // the context ends before there is room
		}
		return nil // sent
	}
	for range 12 {
		if err := send(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	for {
		if err := send(ctx); err != nil {
			fmt.Println(errors.Is(err, context.DeadlineExceeded))
			break
		}
	}
	// Output:
	// true
}

// Only failed logins count: an attempt is charged first, so that many at once are not more than the limit, and given
// back when it succeeds.
func ExampleLimiter_Refund() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	logins := limiter.Provisional() // most charges are given back
	ctx, limit := context.Background(), core.PerMinute("failed-logins", 5)
	login := func(password string) string {
		d, err := logins.Allow(ctx, "user:ann", limit)
		if err != nil {
			log.Fatal(err)
		}
		if !d.Allowed {
			return "too many failures"
		}
		if password != "sesame" {
			return "wrong"
		}
		if err := logins.Refund(ctx, d); err != nil {
			log.Print(err) // it stays charged
		}
		return "welcome"
	}
	for range 10 {
		login("sesame")
	}
	for range 5 {
		login("guess")
	}
	fmt.Println(login("sesame"))
	// Output:
	// too many failures
}

// Tokens of a language model: an estimate is reserved before the call, and what the response has used is settled after
// it.
func ExampleLimiter_Settle() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerMinute("tokens", 10_000)
	complete := func(prompt string, maxTokens int) (used int) { // calls the model
		return len(prompt)/4 + 300
	}
	ask := func(prompt string) error {
		const maxTokens = 4000
		d, err := limiter.AllowN(ctx, "user:ann", len(prompt)/2+maxTokens, limit)
		if err != nil {
			return err
		}
		if !d.Allowed {
			return fmt.Errorf("try again in %v", d.RetryAfter)
		}
		used := complete(prompt, maxTokens)
		if err := limiter.Settle(ctx, d, used); err != nil {
			log.Print(err) // the estimate stays charged, or calling it again settles it
		}
		return nil
	}
	if err := ask("Why is the sky blue?"); err != nil {
		log.Fatal(err)
	}
	d, err := limiter.Peek(ctx, "user:ann", limit)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Remaining, "tokens left")
	// Output: 9695 tokens left
}

// Webhooks go to each receiver no faster than it takes them, from all instances together.
func ExampleLimiter_Wait_webhooks() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	deliver := func(ctx context.Context, receiver string) error {
		if _, err := limiter.Wait(ctx, "webhook:"+receiver, core.PerSecond("webhooks", 10)); err != nil {
			return err // the context ends before there is room
		}
		fmt.Println("to", receiver)
		return nil
	}
	for _, receiver := range []string{"shop.example", "bank.example"} {
		if err := deliver(context.Background(), receiver); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// to shop.example
	// to bank.example
}

func ExampleWithLogger() {
	limiter, err := core.Connect(os.Getenv("REDIS_URL"), core.WithLogger(slog.New(slog.NewJSONHandler(os.Stderr, nil))))
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

func ExampleClientOption() {
	option, err := core.ClientOption("rediss://cache:6379")
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair("client.pem", "client.key")
	if err != nil {
		log.Fatal(err)
	}
	option.TLSConfig.Certificates = []tls.Certificate{certificate}
	client, err := rueidis.NewClient(option)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	limiter, err := core.New(client)
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

// Sentinels with a user and a password of their own.
func ExampleClientOption_sentinel() {
	option, err := core.ClientOption("rediss://limiter:password@sentinel1:26379?addr=sentinel2:26379&master_set=shop")
	if err != nil {
		log.Fatal(err)
	}
	option.Sentinel.Username, option.Sentinel.Password = "limiter", "the sentinels' password"
	client, err := rueidis.NewClient(option)
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := core.New(client)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	defer limiter.Close()
}

func ExampleNew() {
	option, err := core.ClientOption("redis://localhost:6379")
	if err != nil {
		log.Fatal(err)
	}
	client, err := rueidis.NewClient(option)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	limiter, err := core.New(client)
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
}

func ExampleLimiter_Allow() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	burst, sustained := core.PerSecond("burst", 2), core.PerHour("sustained", 100)
	for range 3 {
		d, err := limiter.Allow(context.Background(), "user:42", burst, sustained)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v: %s has %d left\n", d.Allowed, d.Limit.Name, d.Remaining)
	}
	// Output:
	// true: burst has 1 left
	// true: burst has 0 left
	// false: burst has 0 left
}

func ExampleLimiter_AllowN() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	points := core.Limit{Name: "points", Max: 10, Window: 24 * time.Hour}
	for _, cost := range []int{7, 4, 3} {
		d, err := limiter.AllowN(context.Background(), "user:42", cost, points)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d points: %v, %d left\n", cost, d.Allowed, d.Remaining)
	}
	// Output:
	// 7 points: true, 3 left
	// 4 points: false, 3 left
	// 3 points: true, 0 left
}

func ExampleLimiter_Peek() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx, limit := context.Background(), core.PerDay("uploads", 5)
	limiter.Allow(ctx, "user:42", limit)
	d, err := limiter.Peek(ctx, "user:42", limit)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Remaining, "uploads left today")
	// Output: 4 uploads left today
}

func ExampleLimiter_Reset() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx, login := context.Background(), core.PerHour("login", 1)
	limiter.Allow(ctx, "user:42", login)
	if err := limiter.Reset(ctx, "user:42", login); err != nil { // they have proved who they are
		log.Fatal(err)
	}
	d, _ := limiter.Allow(ctx, "user:42", login)
	fmt.Println(d.Allowed)
	// Output: true
}

func ExampleDecision_States() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	d, err := limiter.Allow(context.Background(), "user:42", core.PerSecond("burst", 2), core.PerHour("sustained", 100))
	if err != nil {
		log.Fatal(err)
	}
	for _, state := range d.States() {
		fmt.Println(state.Limit.Name, state.Remaining)
	}
	// Output:
	// burst 1
	// sustained 99
}

// Of the exports of a user, two run at once, in all instances together.
func ExampleLimiter_Release() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()

	export := func(ctx context.Context) error {
		d, err := limiter.Allow(ctx, "user:42", core.InFlight("exports", 2, 30*time.Second))
		if err != nil {
			return err
		}
		if !d.Allowed {
			return errors.New("two exports are under way")
		}
		defer limiter.Release(context.WithoutCancel(ctx), d)
		fmt.Println("one more may run:", d.Remaining == 1)
		return nil
	}
	for range 3 { // one after the other
		if err := export(context.Background()); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// one more may run: true
	// one more may run: true
	// one more may run: true
}

func ExampleInFlight() {
	fmt.Println(core.InFlight("exports", 2, 30*time.Second) ==
		core.Limit{Name: "exports", Max: 2, Window: 30 * time.Second, InFlight: true})
	// Output: true
}

// A function that does not know the limits knows whether there is something to release.
func ExampleDecision_Holds() {
	limiter, _ := core.NewInProcess()
	defer limiter.Close()
	ctx := context.Background()
	send, _ := limiter.Allow(ctx, "user:42", core.PerMinute("send", 3))
	export, _ := limiter.Allow(ctx, "user:42", core.InFlight("exports", 1, 30*time.Second))
	denied, _ := limiter.Allow(ctx, "user:42", core.InFlight("exports", 1, 30*time.Second))
	fmt.Println(send.Holds(), export.Holds(), denied.Holds())
	// Output: false true false
}
