// Package dispatch sends the questions of many callers to Redis in few calls, and returns each answer before its
// deadline.
//
// A caller puts its question into a queue, and waits until the answer comes, its context ends or the timeout passes. It
// never runs inside the Redis client. Workers take the questions in the queue and send them together: to a single
// server, in one call of a script. No question waits for a timer. A question that finds a worker idle is sent at once,
// and those that arrive while all workers have calls in flight are sent together.
//
// A queue with its workers is a link. There is one link to a Redis server, and one to each master of Redis Cluster, so
// that a master that fails delays no questions to others. In a cluster a call is about one slot, so a worker makes many
// calls, which the client sends together. The client knows which master has a slot. This package also keeps a map of
// the slots, to choose links, and the map may be out of date: see nodes. Each link has a circuit breaker, which opens
// when Redis does not answer, or rejects calls: see breaker.
//
// A call that fails is sent again if that may help. If its connection was lost, Redis may have executed it. So even if
// its callers have got errors, it is sent once more when Redis answers again, to find out what was granted and to give
// it back.
//
// A process that is short of processor time may not have read a reply that has come. So the timeout counts only time in
// which this process was able to listen: see clock.
//
// The package knows how to call a script in Redis. It does not know what the questions are about: package core encodes
// a batch of them into the arguments of a call, and decodes the reply.
package dispatch
