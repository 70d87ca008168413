// Package browser contains only tests, which run pages in Chromium. It is a module of its own, so that the packages
// that drive the browser are in no other build.
package browser
