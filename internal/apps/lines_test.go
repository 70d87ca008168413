package apps

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLines counts the lines that limits add to a router, and the router's own lines that they change. What the limits
// of a request depend on, such as its user and plan, is in functions behind it, which only the application can write.
func TestLines(t *testing.T) {
	for _, test := range []struct {
		app                      string
		added, changed, behindIt int
	}{
		{app: "push", added: 9, changed: 4, behindIt: 32},
		{app: "conduit/v4", added: 7, changed: 2, behindIt: 19},
		{app: "conduit/v5", added: 7, changed: 2, behindIt: 19},
	} {
		plain, _ := router(t, test.app+"/router.go", "func New(")
		limited, behind := router(t, test.app+"/limited.go", "func NewLimited(")
		same := common(plain, limited)
		changed := len(plain) - same
		assert.Equal(t, test.changed, changed, "%s: lines changed", test.app)
		assert.Equal(t, test.added, len(limited)-same-changed, "%s: lines added", test.app)
		assert.Equal(t, test.behindIt, len(behind), "%s: lines behind the router", test.app)
	}
}

// router returns the lines of code in the body of a function, and those behind it.
func router(t *testing.T, file, function string) (body, behind []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, code, ok := strings.Cut(string(text), "\n"+function)
	require.True(t, ok, file)
	inside, outside, _ := strings.Cut(code, "\n}\n")
	return lines(inside)[1:], lines(outside) // without the rest of the function's first line
}

// lines returns those with code, in which white space is one space.
func lines(text string) (code []string) {
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		if line != "" && !strings.HasPrefix(line, "//") {
			code = append(code, line)
		}
	}
	return code
}

// common returns the length of the longest common subsequence.
func common(a, b []string) int {
	lengths := make([]int, len(b)+1) // of what precedes each of b, and of a so far
	for i := range a {
		diagonal := 0
		for j := range b {
			above := lengths[j+1]
			if a[i] == b[j] {
				lengths[j+1] = diagonal + 1
			} else {
				lengths[j+1] = max(above, lengths[j])
			}
			diagonal = above
		}
	}
	return lengths[len(b)]
}

// Where the two versions of Echo allow it, the application is the same.
func TestVersionsAgree(t *testing.T) {
	replace := strings.NewReplacer("labstack/echo/v4", "labstack/echo/v5", "echo.Context", "*echo.Context")
	for _, file := range []string{"api.go", "auth.go", "log.go"} {
		v4, err := os.ReadFile("conduit/v4/" + file)
		require.NoError(t, err)
		v5, err := os.ReadFile("conduit/v5/" + file)
		require.NoError(t, err)
		assert.Equal(t, replace.Replace(string(v4)), string(v5), file)
	}
}
