// Package lua embeds the script that runs inside Redis. The comment at the head of the script specifies its arguments,
// its reply and its effects. Package core is its only caller.
package lua

import _ "embed"

// Decide answers batches of questions about sliding window logs, atomically.
//
//go:embed decide.lua
var Decide string
