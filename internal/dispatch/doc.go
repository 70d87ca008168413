// Package dispatch sends the questions of many callers to Redis in few calls, and returns each answer before its
// deadline.
//
// A caller puts its question into a queue, and waits until the answer comes, its context ends or the timeout passes.
// It never runs inside the Redis client. Workers, one for each call that may be in flight, take the questions in the
// queue and ask them in one call of a script. No question waits for a timer: a question that finds a worker idle is
// sent at once, and those that arrive while all workers have calls in flight are sent together.
//
// A queue with its workers is a link. There is one link to a Redis server, and one to each of 32 ranges of slots of
// Redis Cluster, so that a node that fails holds up the keys of few others: those in ranges with slots of both. Each
// link has a circuit breaker, which opens when Redis does not answer, or rejects what it is asked; see breaker.
//
// Lateness of this process is not silence of Redis: the timeout counts only time in which this process was able to
// read answers; see clock.
//
// The package knows Redis, and how to call a script. It does not know what the questions are about: package core
// encodes a batch of them into the arguments of a call, and decodes the reply.
package dispatch
