// Package lua embeds the script that runs inside Redis. The comment at its head is its contract: what it takes, what it
// answers, whose clock it reads. Package core is its only caller.
package lua

import _ "embed"

// Decide answers batches of questions about sliding window logs, atomically.
//
//go:embed decide.lua
var Decide string
