package conduit_test

import (
	"net/http"
	"testing"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/apps/apptest"
	"github.com/exactlimit/exactlimit/internal/apps/conduit"
	echov4 "github.com/exactlimit/exactlimit/internal/apps/conduit/v4"
	echov5 "github.com/exactlimit/exactlimit/internal/apps/conduit/v5"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// version is the application in one version of Echo.
type version struct {
	name    string
	plain   func(*conduit.Store, conduit.Config) http.Handler
	limited func(*conduit.Store, conduit.Config, *core.Limiter) http.Handler
}

var versions = []version{
	{
		"v4",
		func(s *conduit.Store, c conduit.Config) http.Handler { return echov4.New(s, c) },
		func(s *conduit.Store, c conduit.Config, l *core.Limiter) http.Handler {
			return echov4.NewLimited(s, c, l)
		},
	},
	{
		"v5",
		func(s *conduit.Store, c conduit.Config) http.Handler { return echov5.New(s, c) },
		func(s *conduit.Store, c conduit.Config, l *core.Limiter) http.Handler {
			return echov5.NewLimited(s, c, l)
		},
	},
}

// each runs a test on the application as it is, and on the one with limits, in both versions of Echo.
func each(t *testing.T, test func(*testing.T, http.Handler)) {
	for _, v := range versions {
		t.Run(v.name+"/plain", func(t *testing.T) { test(t, v.plain(newStore(t), config)) })
		t.Run(v.name+"/limited", func(t *testing.T) {
			test(t, v.limited(newStore(t), config, apptest.Limiter(t, redistest.Prefix())))
		})
	}
}
