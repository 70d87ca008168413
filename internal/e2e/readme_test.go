package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// snippets returns the Go code of the README and of those in packages, one text a block.
func snippets(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../*/README.md")
	require.NoError(t, err)
	var blocks []string
	for _, file := range append([]string{"../../README.md"}, files...) {
		readme, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile("(?ms)^ *```go\n(.*?)^ *```").FindAllStringSubmatch(string(readme), -1) {
			blocks = append(blocks, match[1])
		}
	}
	return blocks
}

// trimmed is the lines of a text without their indentation.
func trimmed(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.TrimSpace(line) + "\n")
	}
	return out.String()
}

// Every snippet of the README stands in an Example, which the compiler has seen; of a whole program, its main does.
func TestReadmeSnippetsAreExamples(t *testing.T) {
	var examples strings.Builder
	dirs := []string{"core"}
	for _, adapter := range adapters.All {
		dirs = append(dirs, adapter.Dir)
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join("../..", dir, "example_test.go"))
		require.NoError(t, err)
		examples.WriteString(trimmed(string(text)))
	}
	blocks := snippets(t)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		if _, main, ok := strings.Cut(block, "func main() {\n"); ok {
			block = strings.TrimSuffix(main, "}\n")
		}
		assert.Contains(t, examples.String(), trimmed(block))
	}
}

// v4 makes a program for Echo v5 one for Echo v4, as the README says in words.
var v4 = strings.NewReplacer("labstack/echo/v5", "labstack/echo/v4", "echolimit/v5", "echolimit", "*echo.Context", "echo.Context")

// The programs of the README, pasted into an empty module by somebody new, each give their 429.
func TestReadmeProgramsLimit(t *testing.T) {
	redistest.Long(t)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	var programs []string
	for _, block := range snippets(t) {
		if strings.HasPrefix(block, "package main") {
			programs = append(programs, block, v4.Replace(block))
		}
	}
	for _, adapter := range adapters.All {
		t.Run(adapter.Dir, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(programs, func(p string) bool {
				return strings.Contains(p, `"github.com/exactlimit/exactlimit/`+adapter.Dir+`"`)
			})
			require.GreaterOrEqual(t, i, 0, "the README has no program")
			dir := t.TempDir()
			addr := fmt.Sprint("127.0.0.1:", redistest.FreePort(t))
			program := strings.Replace(programs[i], "127.0.0.1:8080", addr, 1)
			for file, text := range map[string]string{
				"main.go": program,
				"go.mod": "module example.com/new\n\ngo 1.25.0\n\nrequire github.com/exactlimit/exactlimit v0.0.0\n\n" +
					"replace github.com/exactlimit/exactlimit => " + root + "\n",
				"go.sum": string(sums), // the versions are this module's, so nothing is looked up
			} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			tidy := exec.Command("go", "mod", "tidy")
			tidy.Dir = dir
			out, err := tidy.CombinedOutput()
			require.NoError(t, err, "%s", out)

			cmd := exec.Command(build(t, dir, ".")[0])
			cmd.Env = append(os.Environ(), "REDIS_URL=")
			require.NoError(t, cmd.Start())
			t.Cleanup(func() {
				cmd.Process.Kill()
				cmd.Wait()
			})
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			login := func() int {
				r, err := client.Post("http://"+addr+"/login", "", nil)
				if err != nil {
					return 0
				}
				r.Body.Close()
				return r.StatusCode
			}
			statuses := []int{0}
			for deadline := time.Now().Add(10 * time.Second); statuses[0] == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				statuses[0] = login()
			}
			for range 5 {
				statuses = append(statuses, login())
			}
			assert.Equal(t, "[200 200 200 200 200 429]", fmt.Sprint(statuses))
		})
	}
}
