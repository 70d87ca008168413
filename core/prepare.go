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

// prepare loads the script into all nodes, so that the first calls need not send its text, and logs a warning about
// each setting that may lose counts. It ignores errors: a call to a node without the script is sent again with the
// text, and without the right to INFO there are no warnings.
func prepare(client rueidis.Client, logger *slog.Logger) {
	for address, info := range loadScript(client) {
		for _, warning := range warnings(info) {
			logger.Warn("exactlimit: "+warning, slog.String("node", address))
		}
	}
}

// loadScript loads the script into all nodes, and returns their replies to INFO by address. It ignores a panic of the
// client: if calls panic too, they return errors.
func loadScript(client rueidis.Client) map[string]string {
	defer func() { recover() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	infos := map[string]string{}
	for address, node := range client.Nodes() {
		node.Do(ctx, node.B().ScriptLoad().Script(lua.Decide).Build())
		if info, err := node.Do(ctx, node.B().Info().Section("server", "memory").Build()).ToString(); err == nil {
			infos[address] = info
		}
	}
	return infos
}

// warnings returns what is wrong with a server, according to its reply to INFO.
func warnings(info string) (warnings []string) {
	if policy := infoField(info, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		warnings = append(warnings,
			"Redis may evict logs, which forgets what was counted: set maxmemory-policy noeviction, not "+policy)
	}
	// Valkey, which is a fork of Redis 7.2, reports that version.
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
