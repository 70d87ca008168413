package push

import (
	"io"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/apps/apptest"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	redistest.Main(m)
}

var config = Config{AllowOrigins: []string{"https://push.example.com"}, Log: io.Discard}

// each runs a test on the application as it is, and on the one with limits.
func each(t *testing.T, test func(*testing.T, http.Handler)) {
	t.Run("plain", func(t *testing.T) {
		app, err := New(newStore(), config)
		require.NoError(t, err)
		test(t, app)
	})
	t.Run("limited", func(t *testing.T) {
		test(t, limited(t, newStore(), apptest.Limiter(t, redistest.Prefix())))
	})
}

func limited(t *testing.T, store *Store, limiter *core.Limiter) http.Handler {
	t.Helper()
	app, err := NewLimited(store, config, limiter)
	require.NoError(t, err)
	return app
}
