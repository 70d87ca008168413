package torture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A suite that finds nothing may be blind. Each mutant is this limiter with one mistake, which the suite has to find, and say.
var mutants = []struct {
	name, file, right, wrong string
	fault                    string // that shows it
	says                     string
}{
	{
		name: "ids are timestamps", file: "core/redis.go",
		right: "return strconv.AppendUint(append(b, r.stem...), r.ids.Add(1), 36)",
		wrong: "return strconv.AppendInt(b, time.Now().UnixMicro(), 10)",
		fault: "none", says: "callers were told of",
	},
	{
		name: "asked again without NX", file: "lua/decide.lua",
		right: "call('ZADD', KEYS[1], 'NX', stamp, id)",
		wrong: "call('ZADD', KEYS[1], stamp, id)",
		fault: "replies_lost", says: "an entry added without NX",
	},
	{
		name: "asked again under another id", file: "core/sender.go",
		right: "return script.Exec(ctx, client, keys, args).ToMessage()",
		wrong: "return script.Exec(ctx, client, keys, append([]string{fmt.Sprint(args[0], time.Now().UnixNano())}, args[1:]...)).ToMessage()",
		fault: "replies_lost", says: "the servers recorded",
	},
	{
		name: "the window ends a microsecond early", file: "lua/decide.lua",
		right: "call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)",
		wrong: "call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window + 1)",
		fault: "none", says: "admissions within",
	},
	{
		name: "the window ends a microsecond late", file: "lua/decide.lua",
		right: "call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)",
		wrong: "call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window - 1)",
		fault: "none", says: "while there was room",
	},
	{
		name: "a denial is remembered for a window too long", file: "core/denials.go",
		right: "until:  sent + believed(min(retry, d.hold)),",
		wrong: "until:  sent + believed(min(retry, d.hold)) + limits[0].Window,",
		fault: "none", says: "while there was room",
	},
	{
		name: "calls wait for as long as they like", file: "core/deadline.go",
		right: "afterListening(d.timeout, d.timeout, nil, func() {",
		wrong: "afterListening(time.Minute, d.timeout, nil, func() {",
		fault: "network_cut", says: "are allowed",
	},
}

func TestMutantsAreFound(t *testing.T) {
	if os.Getenv(mutantEnv) != "" {
		t.Skip("this is one")
	}
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			dir := copyOf(t, "../..")
			file := filepath.Join(dir, mutant.file)
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(source), mutant.right), "%s has %s once", mutant.file, mutant.right)
			require.NoError(t, os.WriteFile(file, bytes.Replace(source, []byte(mutant.right), []byte(mutant.wrong), 1), 0o600))
			cmd := exec.Command("go", "test", "-count=1", "-run", "^TestTorture$/^"+mutant.fault+"$", "./internal/torture")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), mutantEnv+"=1")
			out, err := cmd.CombinedOutput()
			assert.Error(t, err, "the suite finds nothing")
			assert.Contains(t, string(out), mutant.says)
			assert.Contains(t, string(out), "--- FAIL: TestTorture/"+mutant.fault, "it fails by the fault and not for want of building")
		})
	}
}

const mutantEnv = "EXACTLIMIT_TORTURE_MUTANT"

// copyOf copies the module's source, without its nested modules.
func copyOf(t *testing.T, root string) string {
	dir := t.TempDir()
	for _, part := range []string{"go.mod", "go.sum", "core", "lua", "internal/torture", "internal/redistest", "internal/oracle"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, part)), 0o700))
		out, err := exec.Command("cp", "-R", filepath.Join(root, part), filepath.Join(dir, part)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}
