package core

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// connection holds the Redis client, which is either passed to New or made by Connect. Connect may have no client until
// long after it has returned, because rueidis makes no client before Redis has answered. A connection is not a single
// network connection: the client has those.
type connection struct {
	client    atomic.Pointer[rueidis.Client]
	failure   atomic.Pointer[error] // why there is no client yet
	dialStart time.Time             // when dial began
	dialTime  atomic.Int64          // nanoseconds from dialStart to the client; 0 if the first attempt succeeded

	logger     *slog.Logger
	stop       context.CancelFunc // stops keepTrying; nil if the client was passed to New
	background sync.WaitGroup     // keepTrying and prepare
}

// newConnection returns a connection with a client that was passed to New. It does not close the client.
func newConnection(client rueidis.Client, logger *slog.Logger) *connection {
	c := &connection{logger: logger}
	c.setClient(client)
	return c
}

// dial returns a connection that makes its own client. It tries once before it returns, and then in the background
// until Redis answers.
func dial(option rueidis.ClientOption, logger *slog.Logger) *connection {
	ctx, stop := context.WithCancel(context.Background())
	c := &connection{logger: logger, stop: stop, dialStart: time.Now()}
	if !c.connect(option) {
		logger.Warn("exactlimit: Redis does not answer yet; requests are decided without it",
			slog.Any("error", redacted(*c.failure.Load())))
		c.background.Go(func() { c.keepTrying(ctx, option) })
	}
	return c
}

// setClient sets the client, and prepares Redis in the background.
func (c *connection) setClient(client rueidis.Client) {
	if c.failure.Load() != nil {
		c.dialTime.Store(int64(time.Since(c.dialStart)))
	}
	c.client.Store(&client)
	c.background.Go(func() { prepare(client, c.logger) }) // takes a second if Redis does not answer
}

// connect makes a client, and reports whether Redis has answered.
func (c *connection) connect(option rueidis.ClientOption) bool {
	client, err := rueidis.NewClient(option)
	if err != nil {
		c.failure.Store(&err)
		return false
	}
	c.setClient(client)
	return true
}

// keepTrying tries to connect until Redis answers or the context ends.
func (c *connection) keepTrying(ctx context.Context, option rueidis.ClientOption) {
	const maxPause = 500 * time.Millisecond
	for pause := maxPause / 32; ; pause = min(2*pause, maxPause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if c.connect(option) {
			c.logger.Info("exactlimit: Redis answers")
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

// timeWithoutClient returns how long there has been no client since dial began.
func (c *connection) timeWithoutClient() time.Duration {
	if c.client.Load() == nil {
		return time.Since(c.dialStart)
	}
	return time.Duration(c.dialTime.Load())
}

// close waits for the background goroutines. It closes the client unless it was passed to New.
func (c *connection) close() {
	if c.stop != nil {
		c.stop()
	}
	c.background.Wait()
	if c.stop == nil {
		return
	}
	if client := c.client.Load(); client != nil {
		(*client).Close()
	}
}
