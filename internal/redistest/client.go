package redistest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Hook handles a command of a Client, given its words. It may call send, which sends the command to Redis, and returns
// what the caller gets.
type Hook func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult

// Client is a rueidis.Client whose commands pass through a Hook, which can watch, delay, lose or answer them. Commands
// that are sent at once pass one after the other. It is safe for concurrent use if its Hook is.
type Client struct {
	rueidis.Client
	Hook Hook // nil: all commands are sent

	// Cluster has the client pretend that Redis is a cluster.
	Cluster bool
	// Masters, unless it is nil, returns the nodes of the pretended cluster, or those of the client if there is none.
	Masters func() map[string]rueidis.Client

	mu   sync.Mutex
	sent [][]string
}

// Hooked returns a client of the server whose commands pass through a Hook.
func (s *Server) Hooked(t testing.TB, hook Hook) *Client {
	t.Helper()
	return &Client{Client: s.Client(t), Hook: hook}
}

func (c *Client) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := slices.Clone(cmd.Commands()) // rueidis uses the slice again
	c.mu.Lock()
	c.sent = append(c.sent, words)
	c.mu.Unlock()
	send := func() rueidis.RedisResult { return c.Client.Do(ctx, cmd) }
	if c.Hook == nil {
		return send()
	}
	return c.Hook(words, send)
}

func (c *Client) DoMulti(ctx context.Context, cmds ...rueidis.Completed) (results []rueidis.RedisResult) {
	if c.Hook == nil {
		return c.Client.DoMulti(ctx, cmds...)
	}
	for _, cmd := range cmds {
		results = append(results, c.Do(ctx, cmd))
	}
	return results
}

func (c *Client) Mode() rueidis.ClientMode {
	if c.Cluster {
		return rueidis.ClientModeCluster
	}
	return c.Client.Mode()
}

func (c *Client) Nodes() map[string]rueidis.Client {
	switch {
	case c.Masters != nil:
		return c.Masters()
	case c.Cluster:
		return nil
	}
	return c.Client.Nodes()
}

// Sent returns those of the commands until now that match, whether the Hook has sent them or not.
func (c *Client) Sent(match func(words []string) bool) (sent [][]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, words := range c.sent {
		if match(words) {
			sent = append(sent, words)
		}
	}
	return sent
}

// IsCall reports whether a command calls the limiter's script, and is not a probe.
func IsCall(words []string) bool { return words[0] == "EVALSHA" && !IsProbe(words) }

// IsProbe reports whether a command is a probe of the circuit breaker.
func IsProbe(words []string) bool { return words[len(words)-1] == "probe" }

// OnlyCalls returns a Hook that hands calls of the script to another, and sends all other commands.
func OnlyCalls(hook Hook) Hook {
	return func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if !IsCall(words) {
			return send()
		}
		return hook(words, send)
	}
}

// Receive receives a value. It fails the test if none comes within ten seconds.
func Receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing comes within ten seconds")
		panic("unreachable")
	}
}
