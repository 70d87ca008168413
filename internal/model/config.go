package model

// maxRequests is the most requests that a Config may have.
const maxRequests = 4

// Config bounds what the explorer explores.
type Config struct {
	Max, Window int8 // the window in ticks
	Hold        int8 // ticks for which the denial cache uses a denial at most
	Ban         int8 // ticks for which a denial bans the log, or 0
	// InFlight makes the limit one of requests in flight: the window is the lease. What is admitted runs until it is
	// settled, which should be to 0, and is renewed until then. Redis answers in time: none of what runs is lost
	// because an answer takes as long as the lease.
	InFlight bool
	Requests []Request
	Cuts     int8 // how often a connection may be lost, with what is on its way
	GiveUps  int8 // how often a caller may give up before its reply comes
	Losses   int8 // how often Redis may lose its newest entry
	Steps    int8 // how often Redis's clock may be stepped, in either direction
	Step     int8 // ticks of a step
	Kills    int8 // how many instances may be killed
	// Late lets an attempt whose connection was lost be executed after its retry was, until a window after the call was
	// made. Then a call may charge again what was settled meanwhile, or what was denied.
	Late bool
	Bug  Bug // planted
}

// Request is a request that may be made. Requests are made in their order, at any time.
type Request struct {
	Instance int  // 0 or 1
	Cost     int8 // what it reserves
	Settle   int8 // what it has really cost, to which it is settled at any time or never; -1 if it is never settled
}

// Bug is a mistake that the explorer has to find.
type Bug string

// The mistakes.
const (
	OneTooMany          Bug = "a full log admits one more"
	RetryChargesTwice   Bug = "a retry charges again"
	OverchargeForgotten Bug = "what a request cost more than it reserved is not charged"
	SettleChargesTwice  Bug = "a request is settled twice"
	NoMark              Bug = "instances do not learn that units were given back"
	HoldFromReply       Bug = "a denial is cached from when the reply came, not from when the call was sent"
	LearnsOldDenials    Bug = "a denial from before a settlement is cached after it"
	CacheIgnoresCost    Bug = "a denial of a large cost denies a small one"
	LostGrant           Bug = "a retry is answered without looking for the first attempt's entry"
	BanProlonged        Bug = "each denial begins the ban anew"
	BanExpires          Bug = "a ban ends when the last entry expires"
	BanSettled          Bug = "a ban ends when the last entry is given back"
	BanNotBegun         Bug = "a denial that would begin a ban is cached"
	BanCachedLonger     Bug = "a denial by a ban is cached until the log has room"
	NotRenewed          Bug = "a lease is not renewed"
	RenewedLate         Bug = "a lease is renewed when it is over"
	RenewsReleased      Bug = "renewing brings back what was released"
	ReleasedTwice       Bug = "a release that is repeated gives back another's units"
	DeadRenewed         Bug = "the leases of an instance that was killed are renewed"
	CacheKnowsFlights   Bug = "a denial by requests in flight is cached"
)
