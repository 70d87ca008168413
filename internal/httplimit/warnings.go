package httplimit

import (
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// warnings logs mistakes of the service that a request reveals: each kind of mistake once, with what to write instead,
// and errors at most once per errorInterval. It never logs a request's key.
type warnings struct {
	log             *slog.Logger
	errors          throttle
	duplicateLogged atomic.Bool
	noAddressLogged atomic.Bool
	pathInKeyLogged atomic.Bool
	firstPathInAKey atomic.Pointer[string]
}

// errorInterval is the least time between two errors in the log.
const errorInterval = 10 * time.Second

// throttle lets one event pass per errorInterval, and counts the others. The zero throttle is ready to use.
type throttle struct {
	mu         sync.Mutex
	lastPassed time.Time
	suppressed int // since lastPassed
}

// pass reports whether an event passes, and how many were suppressed since the last one that passed.
func (t *throttle) pass() (suppressed int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.lastPassed.IsZero() || now.Sub(t.lastPassed) >= errorInterval {
		suppressed, t.lastPassed, t.suppressed = t.suppressed, now, 0
		return suppressed, true
	}
	t.suppressed++
	return 0, false
}

// logError logs an error of the service. Each request may fail for the same reason, so it logs one error at a time,
// with the number of those that it did not log.
func (w *warnings) logError(message string, err error) {
	if unreported, ok := w.errors.pass(); ok {
		w.log.Error(message, slog.Any("error", err), slog.Int("unreported", unreported))
	}
}

// duplicateLimit warns that two limits of one name charged the same request.
func (w *warnings) duplicateLimit(name string) {
	if isFirst(&w.duplicateLogged) {
		w.log.Warn("exactlimit: a request passed two limits of one name: both charged it, "+
			"and the fields show the stricter one. "+
			"If both count by the same key, remove one; otherwise give each its own name", "limit", name)
	}
}

// noClientAddress warns of a trusted proxy that sends no address of the client.
func (w *warnings) noClientAddress() {
	if isFirst(&w.noAddressLogged) {
		w.log.Warn("exactlimit: a trusted proxy sent no address of the client, so the proxy itself was counted, " +
			"together with all such clients: configure it to add its peer's address to X-Forwarded-For, " +
			"or name the header that it sets with ProxyHeader. " +
			"If only the proxy's own health checks lack the header, nothing is wrong")
	}
}

// pathInKey warns of a key that contains the path of its request, because each path that a client makes up is then a
// new client. It waits for a second path, because one may be in a key by chance, as /64 and /6 are in that of an
// IPv6 address.
func (w *warnings) pathInKey(key string, u *url.URL, template func() string) {
	if u == nil || len(u.Path) < 2 || !strings.Contains(key, u.Path) || w.pathInKeyLogged.Load() ||
		template() == u.Path {
		return
	}
	first := w.firstPathInAKey.Load()
	if first == nil {
		path := strings.Clone(u.Path)
		w.firstPathInAKey.Store(&path)
	} else if !strings.HasPrefix(*first, u.Path) && !strings.HasPrefix(u.Path, *first) && isFirst(&w.pathInKeyLogged) {
		w.log.Warn("exactlimit: the key contains the request path, so every new path gets a fresh budget; use Route()")
	}
}

// isFirst reports whether logged is false, and sets it.
func isFirst(logged *atomic.Bool) bool { return !logged.Load() && !logged.Swap(true) }
