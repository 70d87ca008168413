package core

import (
	"context"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/lua"
)

// sender takes calls to Redis and back within their time, whatever Redis and the network do. A call runs in the goroutine of
// its caller, and three things keep it from being held up there:
//
//   - it ends with a context, which rueidis heeds once a command is on its way;
//   - it never waits for a connection to be made: only probes make connections, of Connect's client at least;
//   - no more calls are on their way than rueidis can queue, at which it would heed no context. A call that ended without its
//     reply keeps its place until Redis has answered a probe sent after it.
type sender struct {
	connection *connection
	deadlines  deadlines
	now        func() time.Duration // since some moment, on Go's monotonic clock
	places     chan struct{}        // taken by calls on their way
	links      [links]link
	probe      *rueidis.Lua // what to ask a link for a sign of life
	outage     outage
	metrics    *metrics // nil when nothing is measured

	closing context.Context
	stop    context.CancelFunc
	probes  sync.WaitGroup
}

// maxUnderWay is three quarters of what one connection of rueidis queues.
const maxUnderWay = 768

func newSender(connection *connection, c config) *sender {
	start := time.Now()
	s := &sender{
		connection: connection,
		deadlines:  deadlines{timeout: c.timeout},
		now:        func() time.Duration { return time.Since(start) },
		places:     make(chan struct{}, maxUnderWay),
		probe:      rueidis.NewLuaScript(lua.Decide),
		outage:     outage{log: c.log},
	}
	s.closing, s.stop = context.WithCancel(context.Background())
	return s
}

// ask is what a call asks Redis, by a context that it must heed.
type ask func(context.Context, rueidis.Client) rueidis.RedisResult

// maxAttempts is how often a call is made whose connection is lost each time. Each attempt waits for a probe to succeed.
const maxAttempts = 10

// send asks about a log, and again where the connection was lost, as long as that is safe. It returns Redis's answer, which
// may be an error of its own.
func (s *sender) send(ctx context.Context, log string, safe time.Duration, ask ask) (message rueidis.RedisMessage, err error) {
	client, err := s.connection.get()
	if err != nil {
		return message, err
	}
	begun := s.now()
	end := s.deadlines.at(begun)
	asking := s.asking(ctx, end, begun)
	link := s.link(log)
	for range maxAttempts {
		if failure := s.enter(ctx, link, end); failure != nil {
			if err == nil || gaveUp(ctx) {
				err = failure
			}
			return message, err
		}
		message, err = s.make(asking, client, link, ask)
		if answered(err) {
			return message, err
		}
		if asking.Err() != nil {
			s.doubt(link, log, err)
			return message, err
		}
		s.lost(link, log, err)
		if s.now()-begun >= safe {
			return message, err
		}
	}
	return message, err
}

// answered says whether Redis has answered, be it with an error.
func answered(err error) bool {
	if err == nil {
		return true
	}
	_, is := rueidis.IsRedisErr(err)
	return is
}

// asking is the context of a call that begins now.
func (s *sender) asking(ctx context.Context, end *moment, begun time.Duration) context.Context {
	if deadline, dated := ctx.Deadline(); dated && time.Until(deadline) < end.end-begun {
		return undated(ctx)
	}
	if s.connection.owned() {
		return end
	}
	return &request{Context: ctx, end: end}
}

// enter waits until a call may go on its way: not at all, nearly always.
func (s *sender) enter(ctx context.Context, l *link, end *moment) error {
	for {
		t := l.trouble.Load()
		switch {
		case t == nil || !t.lost.Load() && !t.open.Load():
			if waited, err := s.place(ctx, end); !waited || err != nil {
				return err
			}
			if t = l.trouble.Load(); t == nil || !t.lost.Load() && !t.open.Load() {
				return nil
			}
			<-s.places // there was trouble meanwhile
		case s.closing.Err() != nil: // nobody mends it
			return errClosed
		case t.open.Load():
			return t.reason()
		default:
			select {
			case <-t.settled:
			case <-end.Done():
				return end.Err()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// place takes a place.
func (s *sender) place(ctx context.Context, end *moment) (waited bool, err error) {
	select {
	case s.places <- struct{}{}:
		return false, nil
	default:
	}
	select {
	case s.places <- struct{}{}:
		return true, nil
	case <-end.Done():
		return true, end.Err()
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// make makes a call and gives up its place, unless the reply has not come yet.
func (s *sender) make(ctx context.Context, client rueidis.Client, l *link, ask ask) (rueidis.RedisMessage, error) {
	owed := false
	defer func() { // also after a panic in a client of the caller's own
		if owed {
			l.stranded.Add(1)
		} else {
			<-s.places
		}
	}()
	var begun time.Duration
	if s.metrics != nil {
		begun = s.now()
	}
	message, err := ask(ctx, client).ToMessage()
	owed = !answered(err) && ctx.Err() != nil
	if s.metrics != nil {
		s.metrics.called(s.now()-begun, err, owed)
	}
	return message, err
}

// close ends all probes, and the connection if it is ours.
func (s *sender) close() {
	s.stop()
	s.probes.Wait()
	s.connection.close()
}
