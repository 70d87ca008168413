package dispatch

import (
	"slices"
	"strings"

	"github.com/redis/rueidis"
)

// Code returns the code of an error reply, such as READONLY, or "" if err is another error.
func Code(err error) string {
	rejection, is := rueidis.IsRedisErr(err)
	if !is {
		return ""
	}
	return CodeOf(rejection.Error())
}

// CodeOf returns the code of an error reply, given its text. It is the first word if that is one of codes, and
// otherwise ERR. Rueidis leaves out the code ERR, so the first word may be no code, as in "DB index is out of range"
// and "SELECT is not allowed in cluster mode". If a script runs a command that the user has no right to, servers send a
// text without a code. CodeOf then returns NOPERM, as for commands outside a script.
func CodeOf(text string) string {
	text = strings.TrimPrefix(text, "ERR ")
	if strings.HasPrefix(text, "The user executing the script can't run this command") || // Redis 7.0
		strings.HasPrefix(text, "ACL failure in script") { // Redis 7.2, Valkey
		return "NOPERM"
	}
	if word, _, _ := strings.Cut(text, " "); slices.Contains(codes, word) {
		return word
	}
	return "ERR"
}

// codes are the error codes of Redis and Valkey.
var codes = []string{
	"ASK", "BUSY", "BUSYGROUP", "BUSYKEY", "CLUSTERDOWN", "CROSSSLOT", "DENIED", "EXECABORT", "INPROG", "INVALIDOBJ",
	"IOERR", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOGOODSLAVE", "NOGROUP", "NOMASTERLINK", "NOPERM",
	"NOPROTO", "NOQUORUM", "NOREPLICAS", "NOSCRIPT", "NOTBUSY", "OOM", "READONLY", "REDIRECT", "TRYAGAIN", "UNBLOCKED",
	"UNKILLABLE", "WRONGPASS", "WRONGTYPE",
}

// noScript reports whether a call had no effect because the server does not have the script.
func noScript(err error) bool { return Code(err) == "NOSCRIPT" }

// readOnly reports whether a call had no effect because the server is a replica.
func readOnly(err error) bool { return Code(err) == "READONLY" }

// tryAgain reports whether a call has charged nothing because its slot is moving: its keys are on two nodes, or the
// script has emptied a log and could not make it again on the node that the slot leaves.
func tryAgain(err error) bool {
	return Code(err) == "TRYAGAIN" || err != nil && strings.Contains(err.Error(), "access a non local key")
}
