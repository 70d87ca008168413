package torture

import (
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fate is what happens to a request.
type Fate int

const (
	// Pass is no fault.
	Pass Fate = iota
	// LoseRequest drops the request and those that follow it, and closes the connection when the requests before it are
	// answered. The server never sees it.
	LoseRequest
	// LoseReply forwards the request, and closes the connection instead of forwarding its reply. The server executes
	// it.
	LoseReply
	// Reset forwards the request, and resets the connection at once. The server may or may not execute it. There is no
	// reply.
	Reset
	// DelayRequest and DelayReply delay the request, or its reply, and with it those that follow on the connection.
	DelayRequest
	DelayReply
)

func (f Fate) String() string {
	return [...]string{"pass", "lose request", "lose reply", "reset", "delay request", "delay reply"}[f]
}

// Faults happen to requests by chance. Each field is the share of requests that meet that fate, each request at most
// one.
type Faults struct {
	Command string // only requests of this command, such as EVALSHA; "" is any

	LoseRequest, LoseReply, Reset, DelayRequest, DelayReply float64

	Delay time.Duration // of DelayRequest and DelayReply
}

// Struck is a request that met a fate.
type Struck struct {
	Fate  Fate
	Words []string
}

// Counts is what a proxy has seen.
type Counts struct {
	Connections, Requests, Replies int
	Fates                          map[Fate]int
}

// Proxy forwards every byte between clients and a Redis server, except for faults. It knows where requests and replies
// begin and end, and which reply answers which request, so it loses whole ones and corrupts nothing. It is safe for
// concurrent use.
//
// What happens to the nth request of the kth connection by chance depends on the seed alone, unless the faults change
// meanwhile.
type Proxy struct {
	Addr string // where it listens

	target string
	seed   uint64
	all    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	hole     chan struct{}
	rate     int          // bytes per second in each direction; 0 is no limit
	free     [2]time.Time // when each direction has carried what it was given until now
	faults   Faults
	next     []Struck // fates set by Next, with the command as the only word
	open     map[*conversation]bool
	counts   Counts
	struck   []Struck
	closed   bool
}

// NewProxy starts a proxy of a server, given as host:port, on a free port of loopback, until the end of the test.
func NewProxy(t testing.TB, target string, seed uint64) *Proxy {
	t.Helper()
	p := &Proxy{Addr: "127.0.0.1:0", target: target, seed: seed, open: map[*conversation]bool{}}
	p.counts.Fates = map[Fate]int{}
	if err := p.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// URL returns the address as a URL for core.Connect.
func (p *Proxy) URL() string { return "redis://" + p.Addr }

// Strike sets the faults that happen to requests by chance from now on.
func (p *Proxy) Strike(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Next sets the fate of the next request of a command. Further calls are for the requests after it. Strike sets the
// delay.
func (p *Proxy) Next(command string, fate Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = append(p.next, Struck{fate, []string{command}})
}

// Hold makes the network a black hole: connections open and stay open, and what is sent in either direction arrives
// after Heal, or never.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole == nil {
		p.hole = make(chan struct{})
	}
}

// Narrow makes the network carry so many bytes per second in each direction, all connections together. A message
// arrives when its last byte does.
func (p *Proxy) Narrow(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.free = bytesPerSecond, [2]time.Time{}
}

// direction is a direction through a proxy.
type direction int

const (
	toServer direction = iota
	toClient
)

// carried returns when the network has carried so many more bytes.
func (p *Proxy) carried(way direction, bytes int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 {
		return time.Time{}
	}
	if now := time.Now(); p.free[way].Before(now) {
		p.free[way] = now
	}
	p.free[way] = p.free[way].Add(time.Duration(bytes) * time.Second / time.Duration(p.rate))
	return p.free[way]
}

// Refuse refuses new connections, as if no process listened. Present connections stay.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse()
}

func (p *Proxy) refuse() {
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.end(true)
	}
}

// Heal ends all faults. What was held arrives. What is delayed, or waits for a narrow network, arrives as late as
// before.
func (p *Proxy) Heal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.next, p.rate = Faults{}, nil, 0
	if p.hole != nil {
		close(p.hole)
		p.hole = nil
	}
	if p.listener == nil && !p.closed {
		return p.listen()
	}
	return nil
}

// Close ends all connections, and returns when all goroutines of the proxy have ended.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.refuse()
	for c := range p.open {
		c.end(true)
	}
	p.mu.Unlock()
	p.all.Wait()
}

// Counts returns what the proxy has seen until now.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := p.counts
	counts.Fates = maps.Clone(counts.Fates)
	return counts
}

// mostStruck is how many requests a proxy remembers at most, since it may run for hours.
const mostStruck = 1000

// Struck returns the requests that met a fate, in the order in which they came: the first ones, if there are many.
func (p *Proxy) Struck() []Struck {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Struck(nil), p.struck...)
}

func (p *Proxy) listen() error {
	listener, err := net.Listen("tcp", p.Addr)
	if err != nil {
		return err
	}
	p.listener = listener
	if strings.HasSuffix(p.Addr, ":0") { // later listeners use the same port
		p.Addr = listener.Addr().String()
	}
	p.all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // Refuse or Close
			}
			p.all.Go(func() { p.serve(client.(*net.TCPConn)) })
		}
	})
	return nil
}

func (p *Proxy) serve(client *net.TCPConn) {
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		client.SetLinger(0)
		client.Close()
		return
	}
	c := &conversation{
		proxy: p, client: client, server: server.(*net.TCPConn), ended: make(chan struct{}),
		requests: make(chan message, 1024), replies: make(chan message, 1024),
	}
	p.mu.Lock()
	c.chance = rand.New(rand.NewPCG(p.seed, uint64(p.counts.Connections)))
	p.counts.Connections++
	p.open[c] = true
	if p.closed {
		c.end(true)
	}
	p.mu.Unlock()

	var parts sync.WaitGroup
	parts.Go(c.readRequests)
	parts.Go(c.readReplies)
	parts.Go(func() { c.write(c.server, c.requests, toServer) })
	parts.Go(func() { c.write(c.client, c.replies, toClient) })
	parts.Wait()
	c.end(false)
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

// fate draws the fate of a request, and its delay. chance is of its connection.
func (p *Proxy) fate(words []string, chance *rand.Rand) (Fate, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Requests++
	fate := Pass
	for i, next := range p.next {
		if strings.EqualFold(next.Words[0], words[0]) {
			fate = next.Fate
			p.next = append(p.next[:i], p.next[i+1:]...)
			break
		}
	}
	if f := p.faults; fate == Pass && (f.Command == "" || strings.EqualFold(f.Command, words[0])) {
		drawn := chance.Float64()
		for i, share := range [...]float64{f.LoseRequest, f.LoseReply, f.Reset, f.DelayRequest, f.DelayReply} {
			if drawn < share {
				fate = LoseRequest + Fate(i)
				break
			}
			drawn -= share
		}
	}
	if fate != Pass {
		p.counts.Fates[fate]++
		if len(p.struck) < mostStruck {
			p.struck = append(p.struck, Struck{fate, words})
		}
	}
	return fate, p.faults.Delay
}

func (p *Proxy) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Replies++
}

func (p *Proxy) held() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}
