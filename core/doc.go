// Package core decides who may pass: at most Max requests of one key in any trailing Window, counted exactly, by
// however many processes share one Redis.
//
// It keeps a sliding window log of the admitted requests, in a Redis sorted set that one Lua script cleans, counts and
// updates in a single step, on Redis's own clock. A fixed window lets twice the limit through at a border and two-counter
// windows estimate; a log does neither. A decision costs one round trip, and one call of the script decides all requests that
// wait. A request takes memory until it leaves the window: one entry, whatever it costs, or one with others of the same key
// that were admitted by the same call.
//
// Denials are remembered for up to a second, so that a client over its limit costs no round trips: see WithDenialCache, and
// Limiter.Provisional for requests whose charges are given back.
//
// A request may cost more than one unit: see Limiter.AllowN. Where its cost is known only when it is done, as with the
// tokens of a language model, it is charged an estimate first, and Limiter.Settle charges or gives back the difference.
//
//	limiter, err := core.Connect(os.Getenv("REDIS_URL")) // "" keeps the logs in this process
//	...
//	decision, err := limiter.Allow(ctx, "user:42", core.PerMinute("search", 30))
//	switch {
//	case err != nil: // no decision: the call makes no sense, or the context was cancelled
//	case !decision.Allowed: // come back after decision.RetryAfter
//	}
//
// Requests do not call Redis themselves. Those that come while calls are in flight are collected, and the next call asks for
// all of them: many keys in one call, and requests that ask the same as one question. There is no timer in this, so a request
// that comes alone is sent at once.
//
// While Redis does not answer, the same limits are enforced on logs in this process, each instance for itself, unless
// OnFailure says otherwise. A circuit breaker for Redis, or for each part of a cluster, keeps requests from waiting for it
// then, and asks it in the background whether it answers again. No call takes longer than WithTimeout says, in a process that
// is not starved of processor time: lateness of this process is not silence of Redis, so a call that was late itself goes on
// waiting for its answer.
//
// Most services use it through the middleware in packages ginlimit and echolimit. This package knows no HTTP and no
// framework.
package core
