package core

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// What would lose counts is said when the limiter is made, and is no error.
func TestWarnings(t *testing.T) {
	server := redistest.Start(t)
	for _, row := range []struct {
		policy, right, says string
	}{
		{"noeviction", "+info", ""},
		{"allkeys-lru", "+info", "set maxmemory-policy noeviction, not allkeys-lru"},
		{"volatile-ttl", "+info", "set maxmemory-policy noeviction, not volatile-ttl"},
		{"allkeys-lru", "-info", ""}, // not for us to know
	} {
		client, said := server.Client(t), &record{}
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory-policy", row.policy)
		redistest.Do(t, client, "ACL", "SETUSER", "default", row.right)
		limiter, err := New(client, said.logger())
		require.NoError(t, err)
		require.NoError(t, limiter.Close())
		if row.says == "" {
			assert.Empty(t, said.all(), row)
			continue
		}
		require.Len(t, said.all(), 1, row) // Close has waited for it
		assert.Contains(t, said.all()[0], row.says)
		assert.Contains(t, said.all()[0], "node="+server.Addr)
	}
	assert.Equal(t, []string{"Redis 6.2.14 is too old: 7.0 or later is needed"},
		warnings("# Server\r\nredis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"))
	assert.Empty(t, warnings("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n"))
	assert.Empty(t, warnings("nothing that it knows"))
}
