package dispatch

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The code of an error is in its text, which rueidis hands on without ERR.
func TestCode(t *testing.T) {
	for text, code := range map[string]string{
		"ERR no":                        "ERR",
		"ERR SELECT is not allowed":     "ERR",
		"ERR DB index is out of range":  "ERR",
		"NOPERMS is another word":       "ERR",
		"an error that tells of NOPERM": "ERR",
		"READONLY":                      "READONLY",

		"ERR The user executing the script can't run this command or subcommand":         "NOPERM", // Redis 7.0
		"ERR ACL failure in script: User a has no permissions to run the 'time' command": "NOPERM", // Redis 7.2, Valkey
	} {
		assert.Equal(t, code, CodeOf(text), text)
		assert.Equal(t, code, Code(rejection(t, text)), text)
	}
	for _, text := range []string{
		"ASK 3999 127.0.0.1:6381", "BUSY Redis is busy running a script.",
		"BUSYGROUP Consumer Group name already exists",
		"BUSYKEY Target key name already exists.", "CLUSTERDOWN The cluster is down", "CROSSSLOT Keys in request",
		"DENIED Redis is running in protected mode", "EXECABORT Transaction discarded",
		"INPROG Failover already in progress",
		"INVALIDOBJ The sentinel object is invalid", "IOERR error or timeout writing to target instance",
		"LOADING Redis is loading the dataset in memory", "MASTERDOWN Link with MASTER is down",
		"MISCONF Redis is configured to save RDB snapshots", "MOVED 3999 127.0.0.1:6381",
		"NOAUTH Authentication required.",
		"NOGOODSLAVE No suitable replica to promote", "NOGROUP No such key", "NOMASTERLINK Can't SYNC",
		"NOPERM this user has no permissions", "NOPROTO unsupported protocol version", "NOQUORUM Not enough Sentinels",
		"NOREPLICAS Not enough good replicas to write.", "NOSCRIPT No matching script.",
		"NOTBUSY No scripts in execution",
		"OOM command not allowed when used memory > 'maxmemory'.",
		"READONLY You can't write against a read only replica.",
		"REDIRECT 127.0.0.1:6381", "TRYAGAIN Multiple keys request during rehashing of slot",
		"UNBLOCKED client unblocked via CLIENT UNBLOCK", "UNKILLABLE Sorry the script already executed write commands",
		"WRONGPASS invalid username-password pair", "WRONGTYPE Operation against a key",
	} {
		code, _, _ := strings.Cut(text, " ")
		assert.Equal(t, code, CodeOf(text))
	}
	assert.Empty(t, Code(io.EOF), "it is not the server's")
	assert.Empty(t, Code(nil))
}
