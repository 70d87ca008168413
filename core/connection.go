package core

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// connection is the client in use. Connect's comes to be when Redis first answers, which may be long after the limiter
// was made: rueidis makes no client before it has seen whether it talks to one server, to Sentinel or to a cluster.
type connection struct {
	client  atomic.Pointer[rueidis.Client]
	cluster atomic.Bool
	failure atomic.Pointer[error] // why there is no client yet

	log     *slog.Logger
	stop    context.CancelFunc // nil when the client is the caller's
	dialing sync.WaitGroup
}

// newConnection takes a client of the caller's.
func newConnection(client rueidis.Client, log *slog.Logger) *connection {
	c := &connection{log: log}
	c.use(client)
	return c
}

// dial makes a client of our own, trying once before it returns and then in the background until Redis answers.
func dial(option rueidis.ClientOption, log *slog.Logger) *connection {
	ctx, stop := context.WithCancel(context.Background())
	c := &connection{log: log, stop: stop}
	if !c.try(option) {
		log.Warn("exactlimit: Redis does not answer yet; requests are decided without it", slog.Any("error", unquoted(*c.failure.Load())))
		c.dialing.Go(func() { c.keepTrying(ctx, option) })
	}
	return c
}

func (c *connection) use(client rueidis.Client) {
	prepare(client, c.log)
	c.cluster.Store(client.Mode() == rueidis.ClientModeCluster)
	c.client.Store(&client)
}

func (c *connection) try(option rueidis.ClientOption) bool {
	client, err := rueidis.NewClient(option)
	if err != nil {
		c.failure.Store(&err)
		return false
	}
	c.use(client)
	return true
}

func (c *connection) keepTrying(ctx context.Context, option rueidis.ClientOption) {
	for pause := maxPause / 32; ; pause = min(2*pause, maxPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if c.try(option) {
			c.log.Info("exactlimit: Redis answers")
			return
		}
	}
}

// owned says whether the client is ours, and so makes no connection in a request's name.
func (c *connection) owned() bool { return c.stop != nil }

func (c *connection) get() (rueidis.Client, error) {
	if client := c.client.Load(); client != nil {
		return *client, nil
	}
	return nil, *c.failure.Load()
}

func (c *connection) close() {
	if c.stop == nil {
		return
	}
	c.stop()
	c.dialing.Wait()
	if client := c.client.Load(); client != nil {
		(*client).Close()
	}
}
