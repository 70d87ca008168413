// Package core implements an exact distributed rate limiter. It admits at most Max requests per key in any trailing
// Window, counted across all processes that share a Redis.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // "" keeps the logs in this process
//	...
//	decision, err := limiter.Allow(ctx, "user:42", core.PerMinute("search", 30))
//	switch {
//	case err != nil: // no decision: an argument is invalid, or the context was cancelled
//	case !decision.Allowed: // try again after decision.RetryAfter
//	}
//
// Most services use it through the middleware in packages ginlimit and echolimit. This package does not depend on HTTP
// or on a framework. The README in its directory describes how to operate it.
//
// # Sliding window logs
//
// A Limiter logs the admitted requests of each key, in a Redis sorted set. One Lua script removes expired entries,
// counts the others and adds the request in a single step, on Redis's own clock. A fixed window admits twice the limit
// around its end, and two-counter windows estimate. A log does neither. In return, it takes memory for each admitted
// request until the request leaves the window. A request is one entry, whatever it costs, and requests of the same key
// that one call admits share an entry.
//
// # Calls to Redis
//
// Callers do not call Redis themselves. Requests that arrive while calls are in flight are collected, and the next call
// decides many of them. A call can have many keys, and equal requests are merged into one question. There is no timer,
// so a single request is sent at once.
//
// Denials are cached for up to a second, so a client over its limit costs no round trips. See WithDenialCache, and
// Limiter.Provisional for requests whose charges are often given back.
//
// # Costs
//
// A request may cost more than one unit: see Limiter.AllowN. If the cost is known only when the request is done, as
// with the tokens of a language model, charge an estimate first, and let Limiter.Settle charge or give back the
// difference.
//
// # Failures
//
// While Redis does not answer, each instance enforces the same limits by itself, on logs in its memory, unless
// OnFailure sets another policy. A circuit breaker for Redis, or for each master of a cluster, then keeps requests from
// waiting, and probes Redis in the background. No call waits for Redis longer than WithTimeout sets. Only time in which
// the process was able to receive replies counts, because a process that is short of processor time must not blame
// Redis for its own delay.
package core
