// Package browser has no code but tests, of the page of the example servers in Chromium. It is a module of its own, so that
// what drives the browser stays out of everybody's build.
package browser
