package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// readmes returns the text of each README and guide, by its path from the root.
func readmes(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", ".github/*.md", "*/*.md", "internal/*/*.md"} {
		files, err := filepath.Glob(filepath.Join("../..", pattern))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			name, err := filepath.Rel("../..", file)
			require.NoError(t, err)
			texts[name] = string(text)
		}
	}
	return texts
}

// snippets returns the blocks of Go code of all READMEs.
func snippets(t *testing.T) (blocks []string) {
	t.Helper()
	code := regexp.MustCompile("(?ms)^ *```go\n(.*?)^ *```")
	texts := readmes(t)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		for _, match := range code.FindAllStringSubmatch(texts[name], -1) {
			blocks = append(blocks, match[1])
		}
	}
	return blocks
}

// Each link in a README to a file or a heading has a target.
func TestReadmeLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$|<a id="([^"]*)">`)
	notInAnchor := regexp.MustCompile(`[^a-z0-9 _-]`)
	anchors := func(text string) (anchors []string) {
		for _, match := range heading.FindAllStringSubmatch(text, -1) {
			anchor := notInAnchor.ReplaceAllString(strings.ToLower(match[1]), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"), match[2])
		}
		return anchors
	}
	texts := readmes(t)
	for name, text := range texts {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(match[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			_, err := os.Stat(filepath.Join("../..", target))
			assert.NoError(t, err, "%s links to %s", name, match[1])
			if anchor != "" {
				assert.Contains(t, anchors(texts[target]), anchor, "%s links to %s", name, match[1])
			}
		}
	}
}

// The README is short.
func TestReadmeIsShort(t *testing.T) {
	text := readmes(t)["README.md"]
	assert.LessOrEqual(t, strings.Count(text, "\n"), 220, "lines")
	assert.LessOrEqual(t, len(strings.Fields(text)), 1900, "words")
	for line := range strings.Lines(text) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSpace(line)), 120, line)
	}
}

// trimmed returns text without indentation.
func trimmed(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.TrimSpace(line) + "\n")
	}
	return out.String()
}

// Each snippet of a README is in an Example, so it compiles. Of a whole program, the body of main is.
func TestReadmeSnippetsAreExamples(t *testing.T) {
	var examples strings.Builder
	dirs := []string{"core"}
	for _, adapter := range adapters.All {
		dirs = append(dirs, adapter.Dir)
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join("../..", dir, "example*_test.go"))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			examples.WriteString(trimmed(string(text)))
		}
	}
	blocks := snippets(t)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		if _, main, ok := strings.Cut(block, "func main() {\n"); ok {
			block = strings.TrimSuffix(main, "}\n")
		}
		assert.True(t, strings.Contains(examples.String(), trimmed(block)), "in no Example:\n%s", block)
	}
}

// v4 changes a program for Echo v5 into one for Echo v4, as the README describes.
var v4 = strings.NewReplacer("labstack/echo/v5", "labstack/echo/v4", "echolimit/v5", "echolimit",
	"*echo.Context", "echo.Context")

// The programs of the README limit requests when they are pasted into an empty module.
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
				"go.sum": string(sums), // the versions of this module, so nothing is downloaded
			} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			tidy := exec.Command("go", "mod", "tidy")
			tidy.Dir = dir
			out, err := tidy.CombinedOutput()
			require.NoError(t, err, "%s", out)
			deps := exec.Command("go", "list", "-deps", ".")
			deps.Dir = dir
			out, err = deps.Output()
			require.NoError(t, err)
			for _, other := range adapters.All {
				built := slices.Contains(strings.Fields(string(out)), other.Framework)
				assert.Equal(t, other.Framework == adapter.Framework, built, "the program is built of %s",
					other.Framework)
			}

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
			deadline := time.Now().Add(10 * time.Second)
			for statuses[0] == 0 && time.Now().Before(deadline) {
				time.Sleep(20 * time.Millisecond)
				statuses[0] = login()
			}
			for range 5 {
				statuses = append(statuses, login())
			}
			assert.Equal(t, "[200 200 200 200 200 429]", fmt.Sprint(statuses))
		})
	}
}
