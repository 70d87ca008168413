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
	c.client.Store(&client)
	c.dialing.Go(func() { prepare(client, c.log) }) // which may take a while if Redis does not answer
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
	const longest = 500 * time.Millisecond
	for pause := longest / 32; ; pause = min(2*pause, longest) {
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

// get returns the client, or why there is none yet.
func (c *connection) get() (rueidis.Client, error) {
	if client := c.client.Load(); client != nil {
		return *client, nil
	}
	return nil, *c.failure.Load()
}

func (c *connection) close() {
	if c.stop != nil {
		c.stop()
	}
	c.dialing.Wait()
	if c.stop == nil {
		return
	}
	if client := c.client.Load(); client != nil {
		(*client).Close()
	}
}
