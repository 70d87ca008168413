package httplimit

import (
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// warnings tells the limiter's log what is wrong in the program around a middleware and shows in a request: a mistake
// once, with what to write instead, and errors at most every quietFor. A request's key is never in it.
type warnings struct {
	log       *slog.Logger
	errors    throttle
	saidTwice atomic.Bool
	saidProxy atomic.Bool
	saidPath  atomic.Bool
	firstPath atomic.Pointer[string]
}

// quietFor is the pause between two errors in the log.
const quietFor = 10 * time.Second

// throttle lets one event pass every quietFor, and counts the others. The zero throttle is ready to use.
type throttle struct {
	mu      sync.Mutex
	passed  time.Time // when the last event did
	stopped int       // since then
}

// pass reports whether an event passes, and how many did not since the last that did.
func (t *throttle) pass() (stopped int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.passed.IsZero() || now.Sub(t.passed) >= quietFor {
		stopped, t.passed, t.stopped = t.stopped, now, 0
		return stopped, true
	}
	t.stopped++
	return 0, false
}

// failed tells of an error of the service. Every request may fail for the same reason, so one in a while stands for the
// others, which are counted.
func (w *warnings) failed(message string, err error) {
	if unreported, ok := w.errors.pass(); ok {
		w.log.Error(message, slog.Any("error", err), slog.Int("unreported", unreported))
	}
}

// twice warns that a request was charged under one name more than once.
func (w *warnings) twice(name string) {
	if once(&w.saidTwice) {
		w.log.Warn("exactlimit: a request passed two limits of one name: both charged it, and the fields show the stricter"+
			" one. If both count by the same key, remove one; otherwise give each its own name", "limit", name)
	}
}

// proxy warns of a trusted proxy that names no client.
func (w *warnings) proxy() {
	if once(&w.saidProxy) {
		w.log.Warn("exactlimit: a trusted proxy named no client, so the proxy was counted, together with all clients that it" +
			" does not name: configure it to add its peer's address to X-Forwarded-For, or name the header that it sets" +
			" with ProxyHeader. If only its own health checks have no header, nothing is wrong")
	}
}

// path warns of a key that holds the path of its request. That makes a new client of every path that anybody writes. Two
// paths are waited for: one may be in a key by chance, as /64 is in that of an IPv6 address, and so is /6.
func (w *warnings) path(key string, u *url.URL, template func() string) {
	if u == nil || len(u.Path) < 2 || !strings.Contains(key, u.Path) || w.saidPath.Load() || template() == u.Path {
		return
	}
	first := w.firstPath.Load()
	if first == nil {
		path := strings.Clone(u.Path)
		w.firstPath.Store(&path)
	} else if !strings.HasPrefix(*first, u.Path) && !strings.HasPrefix(u.Path, *first) && once(&w.saidPath) {
		w.log.Warn("exactlimit: the key contains the request path, so every new path gets a fresh budget; use Route()")
	}
}

// once says whether something is to be said: the first time.
func once(said *atomic.Bool) bool { return !said.Load() && !said.Swap(true) }
