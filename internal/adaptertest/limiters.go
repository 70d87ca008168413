package adaptertest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// charged returns how many units of Inner the client at addr has used.
func charged(t *testing.T, limiter *core.Limiter, addr string) int {
	t.Helper()
	d, err := limiter.Peek(t.Context(), "ip:"+addr, Inner)
	require.NoError(t, err)
	return Inner.Max - d.Remaining
}

// inProcess returns a limiter without Redis.
func inProcess(t *testing.T) *core.Limiter {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}

// onRedis returns a limiter on the shared Redis. Unlike one in-process, it makes no call if the context has ended.
func onRedis(t *testing.T, prefix string) *core.Limiter {
	limiter, err := core.Connect(redistest.Shared(t).URL(), core.WithPrefix(prefix), core.WithTimeout(10*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter
}
