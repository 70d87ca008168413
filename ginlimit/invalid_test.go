package ginlimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// Invalid arguments panic when the service starts.
func TestInvalidArgumentsPanic(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	byIP := ginlimit.New(limiter, ginlimit.ClientIP())
	for name, call := range map[string]func(){
		"no limiter":     func() { ginlimit.New(nil, ginlimit.ClientIP()) },
		"no key":         func() { ginlimit.New(limiter, nil) },
		"no limit":       func() { byIP.Limit() },
		"Max 0":          func() { byIP.Limit(core.PerMinute("login", 0)) },
		"a short lease":  func() { byIP.Limit(core.InFlight("reports", 3, 999*time.Millisecond)) },
		"no LimitFunc":   func() { byIP.LimitFunc(nil) },
		"no header name": func() { ginlimit.Header("") },
		"two words":      func() { ginlimit.Header("API Key") },
		"no keys":        func() { ginlimit.FirstOf() },
		"all proxies":    func() { ginlimit.ClientIP(ginlimit.TrustedProxies("0.0.0.0/0")) },
		"no proxies":     func() { ginlimit.ClientIP(ginlimit.ProxyHeader("X-Real-IP")) },
		"short secret":   func() { ginlimit.HashKey([]byte("hunter2")) },
		"a path":         func() { ginlimit.PathParam("/users/:id") },
		"nothing joined": func() { ginlimit.Join() },
		"no route":       func() { byIP.LimitRoutes(ginlimit.Routes{"login": {adaptertest.One}}) },
		"negative ban": func() {
			byIP.Limit(core.Limit{Name: "login", Max: 5, Window: time.Minute, Ban: -time.Hour})
		},
		"nil key": func() { ginlimit.FirstOf(ginlimit.ClientIP(), nil) },
	} {
		assert.Panics(t, call, name)
	}
	assert.PanicsWithError(t, `exactlimit: invalid: limit "login": Max is 0, it must be at least 1`,
		func() { byIP.Limit(core.PerMinute("login", 0)) })
}
