package model

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/assert"
)

// plain requests are never settled.
func plain(instances ...int) (requests []Request) {
	for _, i := range instances {
		requests = append(requests, Request{i, 1, -1})
	}
	return requests
}

var deep = flag.Bool("deep", false, "explore configurations that take minutes, too")

// The names say what a configuration is about. The last ones take minutes.
var configs = []struct {
	name string
	Config
	deep bool
}{
	{"four requests", Config{Max: 2, Window: 3, Hold: 3, Requests: plain(0, 1, 0, 1)}, false},
	{"retries", Config{Max: 1, Window: 3, Hold: 3, Cuts: 1, Requests: plain(0, 1, 0)}, false},
	{"late attempts", Config{
		Max: 1, Window: 3, Hold: 3, Cuts: 2, GiveUps: 1, Late: true, Requests: plain(0, 1),
	}, false},
	{"settlements", Config{
		Max: 1, Window: 3, Hold: 2, Requests: []Request{{0, 1, 0}, {1, 1, -1}, {0, 1, -1}},
	}, false},
	{"stale denials", Config{
		Max: 1, Window: 2, Hold: 2, Requests: []Request{{0, 1, 0}, {0, 1, -1}, {0, 1, -1}},
	}, false},
	{"units given back twice", Config{
		Max: 2, Window: 2, Hold: 1, Requests: []Request{{0, 1, 0}, {0, 1, 0}, {1, 1, -1}, {1, 1, -1}},
	}, false},
	{"a retried settlement", Config{
		Max: 1, Window: 3, Hold: 2, Cuts: 1, Requests: []Request{{0, 1, 0}, {1, 1, 2}},
	}, false},
	{"overcharges", Config{
		Max: 3, Window: 3, Hold: 3, Requests: []Request{{0, 2, 4}, {0, 1, -1}, {1, 2, -1}},
	}, false},
	{"a retried overcharge", Config{
		Max: 3, Window: 3, Hold: 3, Cuts: 2, Requests: []Request{{0, 1, 2}, {1, 1, -1}},
	}, false},
	{"clock steps", Config{Max: 1, Window: 2, Hold: 2, Steps: 2, Step: 1, Requests: plain(0, 1, 0)}, false},
	{"lost data", Config{Max: 1, Window: 3, Hold: 3, Losses: 2, Requests: plain(0, 1, 0)}, false},
	{"bans", Config{Max: 1, Window: 2, Hold: 2, Ban: 3, Requests: plain(0, 1, 0, 1)}, false},
	{"short bans", Config{Max: 1, Window: 3, Hold: 3, Ban: 2, Requests: plain(0, 1, 0)}, false},
	{"bans and costs", Config{
		Max: 2, Window: 2, Hold: 3, Ban: 2, Requests: []Request{{0, 1, -1}, {1, 2, -1}, {1, 1, -1}, {0, 2, -1}},
	}, false},
	{"bans and retries", Config{Max: 1, Window: 3, Hold: 2, Ban: 2, Cuts: 1, Requests: plain(0, 1, 0)}, false},
	{"bans and settlements", Config{
		Max: 1, Window: 3, Hold: 2, Ban: 4, Requests: []Request{{0, 1, 0}, {1, 1, -1}, {0, 1, -1}},
	}, false},
	{"bans and clock steps", Config{
		Max: 1, Window: 2, Hold: 1, Ban: 3, Steps: 1, Step: 1, Requests: plain(0, 1, 0),
	}, false},
	{"leases", Config{
		Max: 1, Window: 3, Hold: 1, InFlight: true, Kills: 1, Requests: []Request{{0, 1, 0}, {1, 1, 0}},
	}, false},
	{"leases and retries", Config{
		Max: 1, Window: 3, Hold: 1, InFlight: true, Cuts: 1, GiveUps: 1, Requests: []Request{{0, 1, 0}, {1, 1, 0}},
	}, false},

	{"retries and callers that give up", Config{
		Max: 1, Window: 3, Hold: 3, Cuts: 2, GiveUps: 1, Requests: plain(0, 1, 0),
	}, true},
	{"three late attempts", Config{
		Max: 1, Window: 3, Hold: 3, Cuts: 2, GiveUps: 1, Late: true, Requests: plain(0, 1, 0),
	}, true},
	{"two settlements", Config{
		Max: 2, Window: 3, Hold: 2, Cuts: 1, Requests: []Request{{0, 1, 0}, {1, 1, 2}, {1, 1, -1}},
	}, true},
	{"retried overcharges", Config{
		Max: 3, Window: 3, Hold: 3, Cuts: 1, Requests: []Request{{0, 2, 4}, {0, 1, -1}, {1, 2, -1}},
	}, true},
	{"bans, retries and settlements", Config{
		Max: 1, Window: 3, Hold: 2, Ban: 4, Cuts: 1, Requests: []Request{{0, 1, 0}, {1, 1, -1}, {0, 1, -1}},
	}, true},
	{"late bans", Config{
		Max: 1, Window: 3, Hold: 3, Ban: 2, Cuts: 1, GiveUps: 1, Late: true, Requests: plain(0, 1, 0),
	}, true},
	{"bans and large clock steps", Config{
		Max: 1, Window: 2, Hold: 2, Ban: 3, Steps: 2, Step: 2, Requests: plain(0, 1, 0),
	}, true},
	{"leases of three", Config{
		Max: 1, Window: 3, Hold: 1, InFlight: true, Cuts: 1, Requests: []Request{{0, 1, 0}, {1, 1, 0}, {0, 1, 0}},
	}, true},
	{"leases of costs", Config{
		Max: 3, Window: 3, Hold: 1, InFlight: true, Kills: 1, Requests: []Request{{0, 2, 0}, {1, 1, 0}, {1, 2, 0}},
	}, true},
	{"large clock steps", Config{Max: 1, Window: 3, Hold: 3, Steps: 2, Step: 2, Requests: plain(0, 1, 0)}, true},
}

func TestPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, c := range configs {
		if c.deep && !*deep {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			states, broken, way := Explore(&c.Config)
			assert.Empty(t, broken, "%q", way)
			t.Log(states, "states")
		})
	}
}

// A model that finds nothing may be blind.
func TestBugsAreFound(t *testing.T) {
	for bug, config := range map[Bug]string{
		OneTooMany: "four requests", RetryChargesTwice: "retries", LostGrant: "retries",
		OverchargeForgotten: "overcharges", SettleChargesTwice: "a retried overcharge",
		NoMark: "units given back twice", HoldFromReply: "four requests",
		LearnsOldDenials: "stale denials", CacheIgnoresCost: "overcharges",
		BanProlonged: "bans", BanExpires: "bans", BanSettled: "bans and settlements", BanNotBegun: "short bans",
		BanCachedLonger: "short bans", NotRenewed: "leases", RenewedLate: "leases", RenewsReleased: "leases",
		ReleasedTwice: "leases of three", DeadRenewed: "leases", CacheKnowsFlights: "leases of three",
	} {
		t.Run(string(bug), func(t *testing.T) {
			for _, c := range configs {
				if c.name == config {
					c.Bug = bug
					states, broken, way := Explore(&c.Config)
					assert.NotEmpty(t, broken)
					t.Logf("after %d states: %s\n%q", states, broken, way)
				}
			}
		})
	}
}
