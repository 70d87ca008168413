// Package dispatch sends the questions of many callers to Redis in few calls, and returns each answer before its deadline.
//
// A caller puts its question into a queue and waits for the answer, its context or the timeout. It never runs inside the Redis
// client. Workers, one for each call that may be in flight, take what waits in the queue and ask it in one call of a script.
// There are no timers: the first question is sent at once, and those that arrive while calls are in flight are sent together.
//
// There is one queue for a Redis server, and one for each of 32 ranges of slots of Redis Cluster, so that a node that fails
// holds up its own keys alone. Each has a circuit breaker, which opens when Redis does not answer; see breaker.
//
// Lateness of this process is not silence of Redis: a timeout counts only time in which this process was able to listen; see
// clock.
//
// The package knows Redis and the script's calling convention. It does not know what the questions are about: package core
// encodes a batch of them into the arguments of a call and decodes the reply.
package dispatch
