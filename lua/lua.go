// Package lua embeds the scripts that run inside Redis. The head comment of each script is its contract: what it takes,
// what it answers, whose clock it reads. Package core is their only caller.
package lua

import _ "embed"

// Decide admits requests to sliding window logs and charges what it admits, atomically.
//
//go:embed decide.lua
var Decide string

// Refund takes back what Decide has charged.
//
//go:embed refund.lua
var Refund string

// Peek reads the same logs and writes nothing.
//
//go:embed peek.lua
var Peek string
