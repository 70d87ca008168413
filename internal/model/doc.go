// Package model explores every order in which a few requests, replies, retries, settlements, clock steps and losses of
// data can happen, and checks in each state what exactlimit promises.
//
// The model has one key, one limit, and two instances of a service with a denial cache each. Time passes in ticks, of
// which the window has a few. The explorer visits every state that can be reached, so within these bounds a promise
// that holds in the model has no exception:
//
//   - A window of true time never has more than Max × (1 + k) units when a request is admitted, where k is how often
//     Redis has lost an admission or its clock was stepped forward.
//   - No request is denied while there is room, but for two cases: another instance has given back units for the first
//     time less than the hold of the denial cache ago, or Redis's clock was stepped back.
//   - A caller that is told that its request was granted has been charged, and one that is told of a denial has not.
//   - If the limit bans, the first request that finds no room begins the ban, and none is admitted before it ends. That
//     is neither earlier nor later, whatever expires, is given back or is asked meanwhile.
//   - If the limit is of requests in flight, no more than Max run at once, and what an instance that was killed holds
//     is free when its leases end, as long as Redis answers in time.
//
// If an attempt of a call may arrive after its retry, the model checks the first promise alone; see Config.Late.
//
//	go test ./internal/model          some seconds
//	go test ./internal/model -deep    some minutes: also configurations with millions of states
//
// The log of the model is what lua/decide.lua does, in a few lines of Go. In package core,
// TestModelAgreesWithScript plays random orders on the real script and compares each reply and each entry.
package model
