// Package dispatch sends the questions of many callers to Redis in few calls, and returns each answer before its
// deadline.
//
// A caller puts its question into a queue, and waits until the answer comes, its context ends or the timeout passes.
// It never runs inside the Redis client. Workers take the questions in the queue and ask them all at once, on one
// server in one call of a script. No question waits for a timer: a question that finds a worker idle is sent at once,
// and those that arrive while all workers have calls in flight are sent together.
//
// A queue with its workers is a link. There is one link to a Redis server, and one to each master of Redis Cluster,
// so that a master that fails delays no questions to others. In a cluster a call is about one slot, so a worker sends
// many calls at once, which the client sends together. The client also knows which master has a slot; see nodes for
// what happens if this package is wrong about it. Each link has a circuit breaker, which opens when Redis does not
// answer, or rejects what it is asked; see breaker.
//
// A call that fails is sent again if that may help. If its connection was lost, Redis may have executed it. So even if
// its callers have got errors, it is sent once more when Redis answers again, to find out what they were granted and to
// give it back.
//
// A process that is late itself must not conclude that Redis is silent. So the timeout counts only time in which this
// process was able to listen; see clock.
//
// The package knows how to call a script in Redis. It does not know what the questions are about: package core encodes
// a batch of them into the arguments of a call, and decodes the reply.
package dispatch
