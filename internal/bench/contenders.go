package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-chi/httprate"
	httprateredis "github.com/go-chi/httprate-redis"
	"github.com/go-redis/redis_rate/v10"
	"github.com/labstack/echo/v4/middleware"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislimiter"
	"github.com/sethvargo/go-limiter/memorystore"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
	vnmchuo "github.com/vnmchuo/ratelimiter"
	"golang.org/x/time/rate"

	"github.com/exactlimit/exactlimit/core"
)

// contender is a way to limit requests. The first of a list is ours, and the others are compared with it.
type contender struct {
	name      string
	module    string // whose version the report names
	how       string // it counts
	reference bool   // limits nothing; it shows what there is without a limiter
	open      func(setup) (*limiter, error)
}

// setup is what a contender is to do: at most max requests of a key in a window, for so many goroutines.
type setup struct {
	addr, prefix string // of Redis, and of the keys where it can be chosen
	workers      int
	max          int
	window       time.Duration
}

// limiter is a contender at work.
type limiter struct {
	allow func(key string) (bool, error)
	close func()
	each  func() func(key string) (bool, error) // if set, makes an allow of its own for each goroutine
}

// ctx can be cancelled, like a request's. One that cannot would let rueidis take a way of its own.
var ctx, _ = context.WithCancel(context.Background())

var onRedis = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "log", open: func(s setup) (*limiter, error) {
		l, err := core.Connect("redis://"+s.addr, core.WithPrefix(s.prefix))
		return exactly(l, err, s)
	}},
	{name: "redis_rate", module: "github.com/go-redis/redis_rate/v10", how: "GCRA", open: func(s setup) (*limiter, error) {
		client := goRedis(s)
		l, limit := redis_rate.NewLimiter(client), redis_rate.Limit{Rate: s.max, Burst: s.max, Period: s.window}
		return &limiter{allow: func(key string) (bool, error) {
			r, err := l.Allow(ctx, key, limit)
			return err == nil && r.Allowed > 0, err
		}, close: func() { client.Close() }}, nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "fixed window", open: func(s setup) (*limiter, error) {
		client := goRedis(s)
		store, err := ululeredis.NewStoreWithOptions(client, ulule.StoreOptions{Prefix: s.prefix})
		if err != nil {
			return nil, err
		}
		return fromUlule(store, s, func() { client.Close() }), nil
	}},
	{name: "rueidislimiter", module: "github.com/redis/rueidis/rueidislimiter", how: "fixed window", open: func(s setup) (*limiter, error) {
		var client rueidis.Client
		l, err := rueidislimiter.NewRateLimiter(rueidislimiter.RateLimiterOption{
			ClientBuilder: func(option rueidis.ClientOption) (_ rueidis.Client, err error) {
				client, err = rueidis.NewClient(option)
				return client, err
			},
			ClientOption: rueidis.ClientOption{InitAddress: []string{s.addr}},
			KeyPrefix:    s.prefix,
			Limit:        s.max,
			Window:       s.window,
		})
		if err != nil {
			return nil, err
		}
		return &limiter{allow: func(key string) (bool, error) {
			r, err := l.Allow(ctx, key)
			return r.Allowed, err
		}, close: client.Close}, nil
	}},
	{name: "httprate", module: "github.com/go-chi/httprate-redis", how: "two fixed windows", open: func(s setup) (*limiter, error) {
		client := goRedis(s)
		return fromHTTPRate(s, func() { client.Close() }, httprateredis.WithRedisLimitCounter(&httprateredis.Config{
			Client: client, PrefixKey: s.prefix, WindowLength: s.window, FallbackDisabled: true,
		})), nil
	}},
	{name: "vnmchuo", module: "github.com/vnmchuo/ratelimiter", how: "log, client's clock", open: func(s setup) (*limiter, error) {
		client := goRedis(s)
		store := vnmchuo.NewRedisStore(client, vnmchuo.WithLimit(s.max), vnmchuo.WithWindow(s.window))
		return &limiter{allow: func(key string) (bool, error) {
			r, err := store.Allow(ctx, key)
			return err == nil && r.Allowed, err
		}, close: func() { client.Close() }}, nil
	}},
}

var inMemory = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "log", open: func(s setup) (*limiter, error) {
		l, err := core.NewInProcess()
		return exactly(l, err, s)
	}},
	{name: "sethvargo", module: "github.com/sethvargo/go-limiter", how: "fixed window", open: func(s setup) (*limiter, error) {
		store, err := memorystore.New(&memorystore.Config{Tokens: uint64(s.max), Interval: s.window})
		if err != nil {
			return nil, err
		}
		return &limiter{allow: func(key string) (bool, error) {
			_, _, _, ok, err := store.Take(ctx, key)
			return ok, err
		}, close: func() { store.Close(ctx) }}, nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "fixed window", open: func(s setup) (*limiter, error) {
		return fromUlule(ululememory.NewStore(), s, func() {}), nil
	}},
	{name: "httprate", module: "github.com/go-chi/httprate", how: "two fixed windows", open: func(s setup) (*limiter, error) {
		return fromHTTPRate(s, func() {}), nil
	}},
	{name: "Echo's store", module: "github.com/labstack/echo/v4", how: "token bucket", open: func(s setup) (*limiter, error) {
		return &limiter{allow: echoStore(s).Allow, close: func() {}}, nil
	}},
}

const ours = "exactlimit"

func exactly(l *core.Limiter, err error, s setup) (*limiter, error) {
	if err != nil {
		return nil, err
	}
	limit := limitOf(s)
	return &limiter{allow: func(key string) (bool, error) {
		d, err := l.Allow(ctx, key, limit)
		return d.Allowed, err
	}, close: func() { l.Close() }}, nil
}

func limitOf(s setup) core.Limit { return core.Limit{Name: "bench", Max: s.max, Window: s.window} }

// goRedis makes a client with a connection for each goroutine, so that none waits for one.
func goRedis(s setup) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.addr, PoolSize: s.workers})
}

func fromUlule(store ulule.Store, s setup, close func()) *limiter {
	l := ululeOf(store, s)
	return &limiter{allow: func(key string) (bool, error) {
		r, err := l.Get(ctx, key)
		return !r.Reached, err
	}, close: close}
}

func ululeOf(store ulule.Store, s setup) *ulule.Limiter {
	return ulule.New(store, ulule.Rate{Period: s.window, Limit: int64(s.max)})
}

// fromHTTPRate asks as httprate's middleware does, but has it write no fields.
func fromHTTPRate(s setup, close func(), options ...httprate.Option) *limiter {
	var failed atomic.Pointer[error]
	options = append(options,
		httprate.WithResponseHeaders(httprate.ResponseHeaders{}),
		httprate.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, err error) { failed.Store(&err) }))
	l := httprate.NewRateLimiter(s.max, s.window, options...)
	request, _ := http.NewRequest("GET", "/", nil)
	return &limiter{allow: func(key string) (bool, error) {
		if !l.OnLimit(nil, request, key) {
			return true, nil
		}
		if err := failed.Load(); err != nil {
			return false, *err
		}
		return false, nil
	}, close: close}
}

func echoStore(s setup) *middleware.RateLimiterMemoryStore {
	return middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{
		Rate: rate.Limit(float64(s.max) / s.window.Seconds()), Burst: s.max,
	})
}

// check sees that a contender limits at all, since one that does not measures nothing: of a fresh key it admits as many as
// it should and no more, and another key has a budget of its own.
func (c contender) check(s setup, keys [2]string) error {
	s.max, s.window, s.workers = 5, time.Hour, 1
	l, err := c.open(s)
	if err != nil {
		return err
	}
	defer l.close()
	for _, key := range keys {
		for i := range s.max + 2 {
			ok, err := l.allow(key)
			if err != nil {
				return err
			}
			if ok != (i < s.max) {
				return fmt.Errorf("request %d of key %q with a limit of %d: allowed is %v", i+1, key, s.max, ok)
			}
		}
	}
	return nil
}
