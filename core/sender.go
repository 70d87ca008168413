package core

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
//
// While a link is in trouble there may be connections that are being made, behind which rueidis would have calls wait,
// whatever their contexts say. Calls run in goroutines of their own then.
type sender struct {
	connection *connection
	deadlines  deadlines
	now        func() time.Duration // since some moment, on Go's monotonic clock
	single     link                 // to one server, or to Sentinel's
	links      [links]link          // to the ranges of slots of Redis Cluster
	troubled   atomic.Int32         // how many links are in trouble
	probe      *rueidis.Lua         // what to ask a link for a sign of life
	outage     outage
	metrics    *metrics // nil when nothing is measured

	mu      sync.Mutex // held to begin a probe, and to end all
	closing context.Context
	stop    context.CancelFunc
	probes  sync.WaitGroup
}

// maxUnderWay is three quarters of what one connection of rueidis queues. In Redis Cluster all links may be to one node, and
// none may take the places of another.
const maxUnderWay = 768

func newSender(connection *connection, c config) *sender {
	start := time.Now()
	s := &sender{
		connection: connection,
		deadlines:  deadlines{timeout: c.timeout},
		now:        func() time.Duration { return time.Since(start) },
		probe:      rueidis.NewLuaScript(lua.Decide),
		outage:     outage{log: c.log},
	}
	s.single.places = make(chan struct{}, maxUnderWay)
	for i := range s.links {
		s.links[i].places = make(chan struct{}, maxUnderWay/links)
	}
	s.closing, s.stop = context.WithCancel(context.Background())
	return s
}

// do has a script answer or, without one, drops the keys.
func do(ctx context.Context, client rueidis.Client, script *rueidis.Lua, keys, args []string) (rueidis.RedisMessage, error) {
	if script == nil {
		return client.Do(ctx, client.B().Unlink().Key(keys...).Build()).ToMessage()
	}
	return script.Exec(ctx, client, keys, args).ToMessage()
}

// maxAttempts is how often a call is made whose connection is lost each time. Each attempt waits for a probe to succeed.
const maxAttempts = 10

// send asks about the log that is the first key, see do, and again where the connection was lost, as long as that is safe. It
// returns Redis's answer, which may be an error of its own.
func (s *sender) send(ctx context.Context, safe time.Duration, script *rueidis.Lua, keys, args []string) (message rueidis.RedisMessage, err error) {
	client, err := s.connection.get()
	if err != nil {
		return message, err
	}
	begun := s.now()
	end := s.deadlines.at(begun)
	asking := s.asking(ctx, end, begun)
	link := s.link(keys[0])
	for range maxAttempts {
		if failure := s.enter(ctx, link, end); failure != nil {
			if err == nil || gaveUp(ctx) {
				err = failure
			}
			return message, err
		}
		if err != nil && s.now()-begun >= safe {
			<-link.places
			return message, err
		}
		if s.troubled.Load() == 0 {
			message, err = s.make(asking, client, link, script, keys, args)
		} else {
			message, err = s.apart(asking, client, link, script, keys, args)
		}
		if answered(err) {
			return message, err
		}
		if asking.Err() != nil {
			s.doubt(link, keys[0], err)
			return message, err
		}
		s.lost(link, keys[0], err)
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
			if waited, err := l.place(ctx, end); !waited || err != nil {
				return err
			}
			if t = l.trouble.Load(); t == nil || !t.lost.Load() && !t.open.Load() {
				return nil
			}
			<-l.places // there was trouble meanwhile
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
func (l *link) place(ctx context.Context, end *moment) (waited bool, err error) {
	select {
	case l.places <- struct{}{}:
		return false, nil
	default:
	}
	select {
	case l.places <- struct{}{}:
		return true, nil
	case <-end.Done():
		return true, end.Err()
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// make makes a call and gives up its place, unless the reply has not come yet.
func (s *sender) make(ctx context.Context, client rueidis.Client, l *link, script *rueidis.Lua, keys, args []string) (rueidis.RedisMessage, error) {
	owed := false
	defer func() { // also after a panic in a client of the caller's own
		if owed {
			l.stranded.Add(1)
		} else {
			<-l.places
		}
	}()
	var begun time.Duration
	if s.metrics != nil {
		begun = s.now()
	}
	message, err := do(ctx, client, script, keys, args)
	owed = !answered(err) && ctx.Err() != nil
	if s.metrics != nil {
		s.metrics.called(s.now()-begun, err, owed)
	}
	return message, err
}

// apart is make in a goroutine of its own, which keeps the call's place for as long as it is held up.
func (s *sender) apart(ctx context.Context, client rueidis.Client, l *link, script *rueidis.Lua, keys, args []string) (rueidis.RedisMessage, error) {
	type answer struct {
		message rueidis.RedisMessage
		err     error
	}
	answers := make(chan answer, 1)
	ownKeys, ownArgs := slices.Clone(keys), slices.Clone(args) // what is not copied would be allocated for every call
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil { // in a client of the caller's own: here nobody else would catch it
				a.err = fmt.Errorf("panic: %v", p)
			}
			answers <- a
		}()
		a.message, a.err = s.make(ctx, client, l, script, ownKeys, ownArgs)
	}()
	select {
	case a := <-answers:
		return a.message, a.err
	case <-ctx.Done():
		return rueidis.RedisMessage{}, ctx.Err()
	}
}

// close ends all probes, and the connection if it is ours.
func (s *sender) close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.probes.Wait()
	s.connection.close()
}
