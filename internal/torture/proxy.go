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

// Fate is what befalls a request.
type Fate int

const (
	// Pass is no fault.
	Pass Fate = iota
	// LoseRequest swallows the request and all that follow it, and closes the connection once what was sent before is
	// answered. The server never sees it.
	LoseRequest
	// LoseReply sends the request on, and closes the connection instead of passing on its reply. The server has executed it.
	LoseReply
	// Reset sends the request on and breaks the connection at once. Whether the server executes it nobody knows, and no reply
	// says so.
	Reset
	// DelayRequest and DelayReply hold back the request, or its reply, and so all that follow on the connection.
	DelayRequest
	DelayReply
)

func (f Fate) String() string {
	return [...]string{"pass", "lose request", "lose reply", "reset", "delay request", "delay reply"}[f]
}

// Faults befall requests by chance: each field is the share of requests that meet that fate, each request at most one.
type Faults struct {
	Command string // only requests of this command, such as EVALSHA; of any when empty

	LoseRequest, LoseReply, Reset, DelayRequest, DelayReply float64

	Delay time.Duration // how long DelayRequest and DelayReply hold back
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

// Proxy stands between clients and one Redis server and passes on every byte, until told to harm them. It knows where
// requests and replies begin and end, and which reply answers which request, so it loses whole ones and never corrupts what
// it passes on. It is safe for concurrent use.
//
// What befalls the nth request of the kth connection by chance depends on the seed alone, as far as the faults do not change
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
	free     [2]time.Time // when each direction has carried what it was given
	faults   Faults
	next     []Struck // explicit fates still to be met, with the command as the only word
	open     map[*conversation]bool
	counts   Counts
	struck   []Struck
	closed   bool
}

// NewProxy listens on a free port of loopback in front of a server, given as host:port, until the end of the test.
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

// URL is the address as core.Connect takes it.
func (p *Proxy) URL() string { return "redis://" + p.Addr }

// Strike sets the faults that befall requests by chance from now on.
func (p *Proxy) Strike(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Next gives the next request of a command a fate. Further calls are for the requests after it. Delays are as long as
// Strike has set.
func (p *Proxy) Next(command string, fate Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = append(p.next, Struck{fate, []string{command}})
}

// Hold makes the network a black hole: connections open and stay open, and what is sent in either direction arrives after
// Heal or never.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole == nil {
		p.hole = make(chan struct{})
	}
}

// Narrow makes a network that carries so many bytes per second in each direction, all connections together. A message arrives
// when its last byte has.
func (p *Proxy) Narrow(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.free = bytesPerSecond, [2]time.Time{}
}

// direction is a way through a proxy.
type direction int

const (
	toServer direction = iota
	toClient
)

// carried returns when a network that carries so much has carried so many bytes more.
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

// Refuse refuses new connections, as where no process listens. Those there are stay.
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

// Cut resets all connections there are.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.end(true)
	}
}

// Heal ends all faults. What was held arrives; what is delayed, or waits for a narrow network, is so for as long as it was to
// be.
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

// Close ends all connections and returns when nothing is left of the proxy.
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

// mostStruck is how many requests a proxy remembers, so that it can run for hours.
const mostStruck = 1000

// Struck returns the requests that met a fate, in the order in which they came: the first ones, if there are very many.
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
	if strings.HasSuffix(p.Addr, ":0") { // and the same ever after
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
	c.end(false) // both sides have said all they had to say
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

// fate decides on a request. chance belongs to its connection.
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
