package demo

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The page is one document that names no other server, and whose policy allows no inline code but its own.
func TestHandler(t *testing.T) {
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 200, w.Code)
	assert.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))

	policy := w.Header().Get("Content-Security-Policy")
	assert.True(t, strings.HasPrefix(policy, "default-src 'none'; "), policy)
	assert.NotContains(t, policy, "unsafe")
	body := w.Body.String()
	for _, element := range []string{"style", "script"} {
		texts := regexp.MustCompile("(?s)<"+element+"[^>]*>(.*?)</"+element+">").FindAllStringSubmatch(body, -1)
		require.Len(t, texts, 1, element)
		assert.Contains(t, policy, element+"-src "+hash(texts[0][1])+";")
	}
	assert.NotContains(t, body, "{{")
	outside := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.]+\.[a-z]+|@import| (style|on[a-z]+)="`)
	assert.Empty(t, outside.FindAllString(body, -1), "addresses of other servers, and inline code")
}
