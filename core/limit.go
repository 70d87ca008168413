package core

import "time"

// Limit is the budget of a key: at most Max requests are admitted in any trailing Window or, if InFlight is set, at
// most Max run at once. A Limit is a plain value. Make one wherever it is used, and compare limits with ==. The zero
// Limit is invalid.
//
// Limits with the same Name and Window share a log for each key, no matter where they are declared, so two routes share
// a budget exactly if they use the same Name and Window. A changed Max takes effect at once on the existing log. A
// changed Window starts a new log. A ban belongs to the log too: while it lasts, all limits that share the log deny.
type Limit struct {
	// Name distinguishes the limits of a key, and is shown to clients. It is 1 to 64 bytes of printable ASCII.
	Name string
	// Max is the most requests, or units of cost, that are admitted in any Window: 1 to 999,999,999,999,999.
	Max int
	// Window is a whole number of milliseconds, from one to 876,000 hours (100 years). It is half open: a request that
	// is admitted at t counts until just before t+Window. If InFlight is set, Window is the lease, and at least a
	// second.
	Window time.Duration
	// InFlight makes this a limit on requests in flight: see the function InFlight.
	InFlight bool
	// Ban is how long the limit keeps denying a key after it has denied one of its requests, even if there is room
	// again. It is a whole number of milliseconds, up to 876,000 hours. Zero means no ban.
	//
	// The first request that finds no room in this limit begins the ban, and later requests do not prolong it. It ends
	// after exactly Ban. Only Reset ends it earlier; Refund and changes of Ban or Max do not. Peek begins no ban.
	Ban time.Duration
	// Unit tells clients what the limit counts, such as "tokens" or "content-bytes". It is up to 64 bytes of printable
	// ASCII. Empty means "requests". It has no other effect, so limits that differ only in Unit share their log.
	Unit string
}

// InFlight returns a limit of max requests of a key that are in flight at once, in all instances together. An admission
// counts until it is passed to Release or Refund. Adapters do this when the handler has returned.
//
// The lease matters if an instance dies. While a Limiter runs, it renews the leases of what it has admitted each time a
// third of them has passed, however long a handler takes. If its process ends or cannot reach Redis, its requests count
// until their leases end, and not after that, although some may still run. So a short lease costs calls to Redis, and a
// long one makes clients wait after a crash. 30 seconds suit most services. The minimum is a second. A lease should be
// longer than WithTimeout, because the reply to an admission may arrive that late. If it is three times as long, it
// also survives a lost call.
//
// A request of cost n takes n of max. If the cost of requests is something else, such as tokens, limit the requests in
// flight by a separate call, or in an adapter by a separate Middleware.
//
// Limits with the same name and lease share their log, but not with limits that are not InFlight.
func InFlight(name string, max int, lease time.Duration) Limit {
	return Limit{Name: name, Max: max, Window: lease, InFlight: true}
}

// PerSecond returns a limit of max requests in any second.
func PerSecond(name string, max int) Limit { return Limit{Name: name, Max: max, Window: time.Second} }

// PerMinute returns a limit of max requests in any minute.
func PerMinute(name string, max int) Limit { return Limit{Name: name, Max: max, Window: time.Minute} }

// PerHour returns a limit of max requests in any hour.
func PerHour(name string, max int) Limit { return Limit{Name: name, Max: max, Window: time.Hour} }

// PerDay returns a limit of max requests in any 24 hours.
func PerDay(name string, max int) Limit { return Limit{Name: name, Max: max, Window: 24 * time.Hour} }

const (
	// maxName is the most bytes in the name of a limit, in a unit and in a prefix.
	maxName = 64
	// maxMax is the largest integer that the RateLimit fields can carry, by RFC 9651, section 3.3.1.
	maxMax    = 999_999_999_999_999
	maxWindow = 100 * 365 * 24 * time.Hour
)

// inFlightLimits returns those of the limits that are InFlight, or nil.
func inFlightLimits(limits []Limit) (inFlight []Limit) {
	for i := range limits {
		if limits[i].InFlight {
			inFlight = append(inFlight, limits[i])
		}
	}
	return inFlight
}

// Validate returns an error that wraps ErrInvalid unless limits can be used together in one call: there is at least
// one, each of them is valid, and no two have the same Name. Each call checks its limits itself. Use Validate to check
// them earlier, for instance when they are read from a file.
func Validate(limits ...Limit) error {
	if len(limits) == 0 {
		return invalid("no limit given: write at least one, such as core.PerMinute(\"login\", 5)")
	}
	for i := range limits {
		limit := &limits[i]
		if err := limit.validate(); err != nil {
			return err
		}
		for j := range i {
			if other := &limits[j]; other.Name == limit.Name {
				return invalid("two limits named %q in one call (%d per %v and %d per %v): give each its own name",
					limit.Name, other.Max, other.Window, limit.Max, limit.Window)
			}
		}
	}
	return nil
}

func (l *Limit) validate() error {
	switch {
	case l.Name == "":
		return invalid("limit of %d per %v has no Name: name it after what it protects, such as \"login\"",
			l.Max, l.Window)
	case len(l.Name) > maxName:
		return invalid("limit %q: its Name is %d bytes long, at most %d are allowed", l.Name, len(l.Name), maxName)
	case l.Max < 1:
		return invalid("limit %q: Max is %d, it must be at least 1", l.Name, l.Max)
	case int64(l.Max) > maxMax:
		return invalid("limit %q: Max is %d, it must be at most %d", l.Name, l.Max, int64(maxMax))
	case l.InFlight && l.Window < time.Second:
		return invalid("limit %q: its lease is %v, it must be at least 1s, such as 30*time.Second", l.Name, l.Window)
	case l.InFlight && (l.Ban != 0 || l.Unit != ""):
		return invalid("limit %q: one that is InFlight has no Ban and no Unit", l.Name)
	case l.Window < time.Millisecond:
		return invalid("limit %q: Window is %v, it must be at least 1ms", l.Name, l.Window)
	case l.Window > maxWindow:
		return invalid("limit %q: Window is %v, it must be at most %v", l.Name, l.Window, maxWindow)
	case l.Window%time.Millisecond != 0:
		return invalid("limit %q: Window is %v, it must be a whole number of milliseconds", l.Name, l.Window)
	case l.Ban < 0:
		return invalid("limit %q: Ban is %v, it must be at least 1ms, or 0 for no ban", l.Name, l.Ban)
	case l.Ban > maxWindow:
		return invalid("limit %q: Ban is %v, it must be at most %v", l.Name, l.Ban, maxWindow)
	case l.Ban%time.Millisecond != 0:
		return invalid("limit %q: Ban is %v, it must be a whole number of milliseconds", l.Name, l.Ban)
	case len(l.Unit) > maxName:
		return invalid("limit %q: its Unit is %d bytes long, at most %d are allowed", l.Name, len(l.Unit), maxName)
	case !printable(l.Name):
		return invalid("limit %q: its Name must be printable ASCII", l.Name)
	case !printable(l.Unit):
		return invalid("limit %q: its Unit %q must be printable ASCII, such as \"tokens\"", l.Name, l.Unit)
	}
	return nil
}

// printable reports whether a text consists of printable ASCII.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
