package core

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// connection holds the Redis client, which was given to New or is made by Connect. Connect may have no client until
// long after it has returned, because rueidis makes no client before Redis has answered. A connection is not one
// network connection: those belong to the client.
type connection struct {
	client  atomic.Pointer[rueidis.Client]
	failure atomic.Pointer[error] // why there is no client yet
	begun   time.Time             // when dial began
	waited  atomic.Int64          // nanoseconds from dialStart to the first answer, if not the first attempt succeeded

	log     *slog.Logger
	stop    context.CancelFunc // stops keepTrying; nil if the client was given to New
	dialing sync.WaitGroup     // keepTrying and prepare
}

// newConnection returns a connection with a client that was given to New, which it does not close.
func newConnection(client rueidis.Client, log *slog.Logger) *connection {
	c := &connection{log: log}
	c.use(client)
	return c
}

// dial returns a connection that makes its own client. It tries once before it returns, and then in the background
// until Redis answers.
func dial(option rueidis.ClientOption, log *slog.Logger) *connection {
	ctx, stop := context.WithCancel(context.Background())
	c := &connection{log: log, stop: stop, begun: time.Now()}
	if !c.try(option) {
		log.Warn("exactlimit: Redis does not answer yet; requests are decided without it",
			slog.Any("error", unquoted(*c.failure.Load())))
		c.dialing.Go(func() { c.keepTrying(ctx, option) })
	}
	return c
}

// setClient sets the client, and prepares Redis in the background.
func (c *connection) use(client rueidis.Client) {
	if c.failure.Load() != nil {
		c.waited.Store(int64(time.Since(c.begun)))
	}
	c.client.Store(&client)
	c.dialing.Go(func() { prepare(client, c.log) }) // in the background, since it takes a second if Redis does not answer
}

// connect makes a client, and reports whether Redis has answered.
func (c *connection) try(option rueidis.ClientOption) bool {
	client, err := rueidis.NewClient(option)
	if err != nil {
		c.failure.Store(&err)
		return false
	}
	c.use(client)
	return true
}

// keepTrying tries to connect until Redis answers or the context ends.
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

// get returns the client, or the reason why there is none yet.
func (c *connection) get() (rueidis.Client, error) {
	if client := c.client.Load(); client != nil {
		return *client, nil
	}
	return nil, *c.failure.Load()
}

// timeWithoutClient returns how long there was no client.
func (c *connection) away() time.Duration {
	if c.client.Load() == nil {
		return time.Since(c.begun)
	}
	return time.Duration(c.waited.Load())
}

// close waits for the goroutines in the background. It closes the client unless it was given to New.
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
