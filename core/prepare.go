package core

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/lua"
)

// prepare gives every node the script, so that the first calls need not send its text, and warns of what would lose
// counts. It is best effort: a node that lacks a script says NOSCRIPT to a call and is sent the text then, and a user without
// the right to INFO is told nothing.
func prepare(client rueidis.Client, log *slog.Logger) {
	for address, info := range load(client) {
		for _, warning := range warnings(info) {
			log.Warn("exactlimit: "+warning, slog.String("node", address))
		}
	}
}

// load gives every node the script, and returns by their addresses what they say of themselves. A panic of a client of the
// caller's own is nothing here: it is an error of the calls if it goes on.
func load(client rueidis.Client) map[string]string {
	defer func() { recover() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	said := map[string]string{}
	for address, node := range client.Nodes() {
		node.Do(ctx, node.B().ScriptLoad().Script(lua.Decide).Build())
		if info, err := node.Do(ctx, node.B().Info().Section("server", "memory").Build()).ToString(); err == nil {
			said[address] = info
		}
	}
	return said
}

// warnings says what is wrong with a server, by what it says of itself.
func warnings(info string) (warnings []string) {
	if policy := infoField(info, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		warnings = append(warnings, "Redis may evict logs, which forgets what was counted: set maxmemory-policy noeviction, not "+policy)
	}
	// Valkey says that it is Redis 7.2, of which it is a fork.
	major, _, _ := strings.Cut(infoField(info, "redis_version"), ".")
	if n, err := strconv.Atoi(major); err == nil && n < 7 {
		warnings = append(warnings, "Redis "+infoField(info, "redis_version")+" is too old: 7.0 or later is needed")
	}
	return warnings
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
