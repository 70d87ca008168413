package model

// maxRequests is the most requests that a Config may have.
const maxRequests = 4

// Config bounds what the explorer explores.
type Config struct {
	Max, Window int8 // the window in ticks
	Hold        int8 // ticks for which the denial cache uses a denial at most
	Requests    []Request
	Cuts        int8 // how often a connection may be lost, with what is on its way
	GiveUps     int8 // how often a caller may give up before its reply comes
	Losses      int8 // how often Redis may lose its newest entry
	Steps       int8 // how often Redis's clock may be stepped, in either direction
	Step        int8 // ticks of a step
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
)
