package echolimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// Invalid arguments panic when the service starts.
func TestInvalidArgumentsPanic(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := echolimit.New(limiter, echolimit.ClientIP())
	for name, call := range map[string]func(){
		"no limiter":     func() { echolimit.New(nil, echolimit.ClientIP()) },
		"no key":         func() { echolimit.New(limiter, nil) },
		"no limit":       func() { byIP.Limit() },
		"Max 0":          func() { byIP.Limit(core.PerMinute("login", 0)) },
		"a short lease":  func() { byIP.Limit(core.InFlight("reports", 3, 999*time.Millisecond)) },
		"no LimitFunc":   func() { byIP.LimitFunc(nil) },
		"no header name": func() { echolimit.Header("") },
		"two words":      func() { echolimit.Header("API Key") },
		"no keys":        func() { echolimit.FirstOf() },
		"all proxies":    func() { echolimit.ClientIP(echolimit.TrustedProxies("0.0.0.0/0")) },
		"no proxies":     func() { echolimit.ClientIP(echolimit.ProxyHeader("X-Real-IP")) },
		"short secret":   func() { echolimit.HashKey([]byte("hunter2")) },
		"a path":         func() { echolimit.PathParam("/users/:id") },
		"nothing joined": func() { echolimit.Join() },
		"no route":       func() { byIP.LimitRoutes(echolimit.Routes{"login": {adaptertest.One}}) },
		"negative ban": func() {
			byIP.Limit(core.Limit{Name: "login", Max: 5, Window: time.Minute, Ban: -time.Hour})
		},
		"nil key": func() { echolimit.FirstOf(echolimit.ClientIP(), nil) },
	} {
		assert.Panics(t, call, name)
	}
	assert.PanicsWithError(t, `exactlimit: invalid: limit "login": Max is 0, it must be at least 1`,
		func() { byIP.Limit(core.PerMinute("login", 0)) })
}
