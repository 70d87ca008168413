package torture

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// conversation is a connection of a client to the proxy, and that of the proxy to the server for it.
type conversation struct {
	proxy             *Proxy
	client, server    *net.TCPConn
	chance            *rand.Rand
	requests, replies chan message
	once              sync.Once
	ended             chan struct{}

	mu      sync.Mutex
	waiting []answer // for each request that was forwarded and is not answered
	opaque  bool     // whether replies no longer answer requests one by one: see unmatched
}

// message is a request or a reply that is being forwarded.
type message struct {
	bytes []byte
	due   time.Time // when it may arrive
	then  then
}

// then is what happens when a message has arrived.
type then int

const (
	carryOn then = iota
	closeWrite
	closeBoth
	resetBoth
)

// answer is what happens to the reply to a request.
type answer struct {
	fate  Fate
	delay time.Duration
}

// unmatched reports whether what comes after a request is not one reply for each request, or not the protocol at all.
// From then on the connection is forwarded as bytes.
func unmatched(words []string) bool {
	switch command := strings.ToUpper(words[0]); command {
	case "MONITOR", "SYNC", "PSYNC":
		return true
	case "CLIENT":
		return len(words) > 1 && strings.EqualFold(words[1], "REPLY")
	default:
		return strings.HasSuffix(command, "SUBSCRIBE")
	}
}

func (c *conversation) readRequests() {
	in := bufio.NewReaderSize(c.client, 1<<16)
	for {
		request, words, err := redistest.ReadRequest(in)
		if err != nil {
			c.broken(c.requests, request, err, closeWrite)
			return
		}
		if len(words) == 0 { // an empty line, which is not answered
			if !c.send(c.requests, message{bytes: request}) {
				return
			}
			continue
		}
		if unmatched(words) {
			c.mu.Lock()
			c.opaque = true
			c.mu.Unlock()
			if c.send(c.requests, message{bytes: request}) {
				c.readBytes(in, c.requests, closeWrite)
			}
			return
		}
		fate, delay := c.proxy.fate(words, c.chance)
		m := message{bytes: request}
		c.mu.Lock()
		c.waiting = append(c.waiting, answer{fate, delay})
		alone := len(c.waiting) == 1
		c.mu.Unlock()
		switch fate {
		case LoseRequest:
			// The connection is closed when all requests before this one are answered: here, or by readReplies.
			if !alone || c.send(c.replies, message{then: closeBoth}) {
				io.Copy(io.Discard, in)
			}
			return
		case Reset:
			m.then = resetBoth
		case DelayRequest:
			m.due = time.Now().Add(delay)
		}
		if !c.send(c.requests, m) {
			return
		}
	}
}

func (c *conversation) readReplies() {
	in := bufio.NewReaderSize(c.server, 1<<16)
	for {
		first, err := in.Peek(1)
		if err != nil {
			c.broken(c.replies, nil, err, closeBoth)
			return
		}
		c.mu.Lock()
		opaque, pushed := c.opaque, first[0] == '>' // a push answers no request
		c.mu.Unlock()
		if opaque {
			c.readBytes(in, c.replies, closeBoth)
			return
		}
		reply, err := redistest.ReadValue(in)
		if err != nil {
			c.broken(c.replies, reply, err, closeBoth)
			return
		}
		m := message{bytes: reply}
		if pushed {
			if !c.send(c.replies, m) {
				return
			}
			continue
		}
		c.proxy.answered()
		c.mu.Lock()
		var to answer
		if len(c.waiting) > 0 { // a server may send an error before it closes, without a request
			to = c.waiting[0]
		}
		c.mu.Unlock()
		switch to.fate {
		case LoseReply:
			c.send(c.replies, message{then: closeBoth})
			return
		case Reset: // by write, before which the reply must not come
			return
		case DelayReply:
			m.due = time.Now().Add(to.delay)
		}
		if !c.send(c.replies, m) {
			return
		}
		c.mu.Lock()
		if len(c.waiting) > 0 {
			c.waiting = c.waiting[1:]
		}
		lost := len(c.waiting) > 0 && c.waiting[0].fate == LoseRequest
		c.mu.Unlock()
		if lost {
			c.send(c.replies, message{then: closeBoth})
			return
		}
	}
}

// readBytes forwards bytes as they come.
func (c *conversation) readBytes(in *bufio.Reader, to chan message, at then) {
	for {
		if _, err := in.Peek(1); err != nil {
			c.broken(to, nil, err, at)
			return
		}
		bytes := make([]byte, in.Buffered())
		in.Read(bytes)
		if !c.send(to, message{bytes: bytes}) {
			return
		}
	}
}

// broken ends a direction as its sender did: the rest arrives, and then an end or a reset. If what was sent is not the
// protocol, the connection is reset too.
func (c *conversation) broken(to chan message, rest []byte, err error, at then) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		at, rest = resetBoth, nil
	}
	c.send(to, message{bytes: rest, then: at})
}

// send passes a message to write, and reports false if the conversation has ended.
func (c *conversation) send(to chan message, m message) bool {
	select {
	case to <- m:
		return true
	case <-c.ended:
		return false
	}
}

func (c *conversation) write(to *net.TCPConn, messages chan message, way direction) {
	out := bufio.NewWriterSize(to, 1<<16)
	for {
		var m message
		select {
		case m = <-messages:
		default:
			if out.Flush() != nil {
				c.end(true)
				return
			}
			select {
			case m = <-messages:
			case <-c.ended:
				return
			}
		}
		if !c.wait(m, out, way) {
			return
		}
		out.Write(m.bytes) // Flush returns the error
		if m.then == carryOn {
			continue
		}
		err := out.Flush()
		if m.then == closeWrite && err == nil {
			to.CloseWrite()
		} else {
			c.end(m.then == resetBoth || err != nil)
		}
		return
	}
}

// wait waits until a message may arrive. Meanwhile those before it are flushed. It reports false if the conversation
// ends.
func (c *conversation) wait(m message, out *bufio.Writer, way direction) bool {
	if !c.waitUntil(m.due, out) {
		return false
	}
	for hole := c.proxy.held(); hole != nil; hole = c.proxy.held() {
		out.Flush()
		select {
		case <-hole:
		case <-c.ended:
			return false
		}
	}
	return c.waitUntil(c.proxy.carried(way, len(m.bytes)), out)
}

func (c *conversation) waitUntil(due time.Time, out *bufio.Writer) bool {
	left := time.Until(due)
	if left <= 0 {
		return true
	}
	out.Flush()
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ended:
		return false
	}
}

// end closes both connections.
func (c *conversation) end(reset bool) {
	c.once.Do(func() {
		close(c.ended)
		for _, conn := range []*net.TCPConn{c.client, c.server} {
			if reset {
				conn.SetLinger(0)
			}
			conn.Close()
		}
	})
}
