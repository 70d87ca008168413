// Package core decides whether a request is admitted: at most Max requests of one key in any trailing Window, counted
// exactly, by however many processes share one Redis.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // "" keeps the logs in this process
//	...
//	decision, err := limiter.Allow(ctx, "user:42", core.PerMinute("search", 30))
//	switch {
//	case err != nil: // no decision: the call makes no sense, or the context was cancelled
//	case !decision.Allowed: // try again after decision.RetryAfter
//	}
//
// Most services use it through the middleware in packages ginlimit and echolimit. This package knows no HTTP and no
// framework. The README in its directory describes how to operate it.
//
// A Limiter keeps a sliding window log of the admitted requests, in a Redis sorted set. One Lua script cleans, counts
// and updates the log in a single step, on Redis's own clock. A fixed window admits twice the limit across a border,
// and two-counter windows estimate. A log does neither. It takes memory for each admitted request until the request
// leaves the window: one entry, whatever it costs, or one together with requests of the same key that the same call has
// admitted.
//
// Requests do not call Redis themselves. Requests that arrive while calls are in flight are collected, and the next
// call asks for all of them: many keys in one call, and equal requests as one question. There is no timer, so a single
// request is sent at once.
//
// Denials are remembered for up to a second, so a client over its limit costs no round trips: see WithDenialCache, and
// Limiter.Provisional for requests whose charges are given back.
//
// A request may cost more than one unit: see Limiter.AllowN. If the cost is known only when the request is done, as
// with the tokens of a language model, charge an estimate first, and let Limiter.Settle charge or give back the
// difference.
//
// While Redis does not answer, each instance enforces the same limits by itself, on logs in its memory, unless
// OnFailure sets another policy. A circuit breaker for Redis, or for each master of a cluster, keeps requests from
// waiting then, and asks in the background whether Redis answers again. No call takes longer than WithTimeout sets, if
// the process is not starved of processor time. Lateness of this process is not silence of Redis, so a call that was
// late itself goes on waiting for its answer.
package core
