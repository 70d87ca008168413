package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
)

// Packages import only what is listed here, beside the standard library. Each dependency makes the builds of all users
// larger, so to add one to the list is a decision.
func TestImports(t *testing.T) {
	const module = "github.com/exactlimit/exactlimit/"
	allowed := map[string][]string{
		"lua":               {},
		"internal/dispatch": {"github.com/redis/rueidis"},
		"core": {module + "lua", module + "internal/dispatch", "github.com/redis/rueidis",
			"github.com/puzpuzpuz/xsync/v4",
			"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace"},
		"internal/httplimit": {module + "core"},
		"internal/demo":      {module + "core"},
	}
	frameworks := map[string]string{"core": ""} // the framework that each package may depend on
	for _, adapter := range adapters.All {
		example := adapter.Dir + "/example"
		allowed[adapter.Dir] = []string{module + "core", module + "internal/httplimit", adapter.Framework}
		allowed[example] = []string{module + "core", module + adapter.Dir, module + "internal/demo", adapter.Framework,
			adapter.Framework + "/middleware"}
		frameworks[adapter.Dir] = adapter.Framework
		frameworks[example] = adapter.Framework
	}
	for pkg, allowed := range allowed {
		imports := list(t, "-f", `{{join .Imports "\n"}}`, module+pkg)
		for _, path := range imports {
			first, _, _ := strings.Cut(path, "/")
			if strings.Contains(first, ".") {
				assert.Contains(t, allowed, path, "an import of %s", pkg)
			}
		}
		if pkg == "core" || pkg == "lua" {
			assert.NotContains(t, imports, "net/http", "an import of %s", pkg)
		}
	}
	// Core depends on no framework, and an adapter on no other framework than its own.
	for pkg, own := range frameworks {
		deps := list(t, "-deps", "-f", "{{.ImportPath}}", module+pkg)
		for _, adapter := range adapters.All {
			if adapter.Framework != own {
				assert.NotContains(t, deps, adapter.Framework, "a dependency of %s", pkg)
			}
		}
		for _, path := range []string{
			"github.com/stretchr/testify/assert", "pgregory.net/rapid", "go.uber.org/goleak",
			"github.com/dunglas/httpsfv",
			"github.com/anishathalye/porcupine", "go.opentelemetry.io/otel/sdk/metric", "github.com/gin-contrib/cors",
		} {
			assert.NotContains(t, deps, path, "a dependency of %s", pkg)
		}
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	require.NoError(t, err, args)
	return strings.Fields(string(out))
}
