// Package apps has applications to add the limiter to, as a user does who has a service already.
//
// They are stand-ins, written for these tests. The tests may not fetch other projects' sources, so each application has
// the shape of one that people run, as its public documentation tells: the same routes, authentication, middleware,
// order of middleware, and way to answer errors. What is behind the routes is kept in memory.
//
//   - push has the shape of gotify/server, a Gin service that pushes messages: middleware that answers the errors of
//     c.Errors, Basic authentication and tokens, WebSockets that are served by goroutines, proxies from a list.
//   - conduit has the shape of a RealWorld backend, in Echo v4 and Echo v5: a JWT login, optional authentication, an
//     error handler, a binder and a validator of its own.
//
// Each has its own tests, which know of no limits and compare statuses and bodies. They run on the application as it
// is, and on a copy of its router with limits added (limited.go beside router.go), so the two files show what there is
// to write. TestLines counts the lines. Further tests show that the limits are exact: across two instances on one
// Redis, and without Redis.
package apps
