package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	ululegin "github.com/ulule/limiter/v3/drivers/middleware/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// The scenario service is what users feel: a Gin server in a process of its own, which clients in this process ask over
// keep-alive connections.

const (
	connections = 64
	clients     = 10_000
	apiKey      = "X-API-Key"
)

// app is a contender that serves HTTP.
type app struct {
	limit  gin.HandlerFunc // nil for none
	tell   gin.HandlerFunc // limit for the path /left, where the answer has fields; nil if limit's answers have some
	fields []string        // that an admitted request's answer has
	said   func() diagnostics
	close  func()
}

var services = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "2 fields", app: func(s setup) (*app, error) {
		words := &words{}
		l, err := core.Connect(s.url(), core.WithPrefix(s.prefix), core.WithLogger(slog.New(words)))
		if err != nil {
			return nil, err
		}
		return &app{
			limit:  ginlimit.New(l, ginlimit.Header(apiKey)).Limit(limitOf(s)),
			fields: []string{"RateLimit", "RateLimit-Policy"},
			said:   func() diagnostics { return diagnostics{Warnings: words.warnings()} },
			close:  func() { l.Close() },
		}, nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "3 fields", app: func(s setup) (*app, error) {
		l, close, err := ululeOnRedis(s, plain)
		if err != nil {
			return nil, err
		}
		byKey := ululegin.WithKeyGetter(func(c *gin.Context) string { return c.GetHeader(apiKey) })
		return &app{
			limit:  ululegin.NewMiddleware(l, byKey),
			fields: []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"},
			close:  close,
		}, nil
	}},
	{name: rueidisLimiter.name, module: rueidisLimiter.module, how: "no fields", app: func(s setup) (*app, error) {
		l, close, err := newRueidisLimiter(s)
		if err != nil {
			return nil, err
		}
		limit := func(told bool) gin.HandlerFunc {
			return func(c *gin.Context) {
				r, err := l.Allow(c.Request.Context(), c.GetHeader(apiKey))
				switch {
				case err != nil:
					c.AbortWithStatus(http.StatusInternalServerError)
				case !r.Allowed:
					c.AbortWithStatus(http.StatusTooManyRequests)
				case told:
					c.Header("X-RateLimit-Remaining", strconv.FormatInt(r.Remaining, 10))
				}
			}
		}
		return &app{limit: limit(false), tell: limit(true), close: close}, nil
	}},
	{name: "bare Gin", module: "github.com/gin-gonic/gin", how: "no limit", reference: true, app: func(setup) (*app, error) {
		return &app{close: func() {}}, nil
	}},
}

func (a *app) handler() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	ok := func(c *gin.Context) { c.String(http.StatusOK, "ok") }
	switch {
	case a.limit == nil:
		r.GET("/", ok)
	case a.tell == nil:
		r.GET("/", a.limit, ok)
		r.GET("/left", a.limit, ok)
	default:
		r.GET("/", a.limit, ok)
		r.GET("/left", a.tell, ok)
	}
	return r
}

// checkedMax is the limit of a service that is only checked.
const checkedMax = 5

// address is where a service listens, and what its answers have.
type address struct {
	Addr   string
	Fields []string
}

// serveChild serves until the parent is gone. Whenever the parent asks, it tells what it has allocated since, and what
// its limiter has said.
func serveChild(c contender, s setup, check bool, in io.Reader, answer *json.Encoder) error {
	if check {
		s.max = checkedMax
	}
	a, err := c.app(s)
	if err != nil {
		return err
	}
	defer a.close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	go http.Serve(listener, a.handler())
	if err := answer.Encode(address{listener.Addr().String(), a.fields}); err != nil {
		return err
	}
	// The parent asks twice: before the requests that count, and after them.
	var before uint64
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t := turn{Mallocs: m.Mallocs - before}
		before = m.Mallocs
		if a.said != nil {
			t.Said = a.said()
		}
		if err := answer.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

// checkService sees that a service admits as many requests of a client as it should and no more, and that its answers
// have the fields that it claims.
func checkService(j job, exe string) error {
	j.Check = true
	server, err := j.start(exe)
	if err != nil {
		return err
	}
	defer server.stop()
	var where address
	if err := server.read(&where); err != nil {
		return err
	}
	for _, path := range []string{"/", "/left"} {
		conn, err := dial(where.Addr)
		if err != nil {
			return err
		}
		defer conn.close()
		for i := range checkedMax + 2 {
			admitted, err := conn.ask(request(path, "check"+path))
			if err != nil {
				return err
			}
			if admitted != (i < checkedMax) {
				return fmt.Errorf("request %d of a client with a limit of %d: admitted is %v", i+1, checkedMax, admitted)
			}
			if !admitted {
				continue
			}
			for _, field := range where.Fields {
				if !conn.has(field) {
					return fmt.Errorf("the answer has no field %s:\n%s", field, conn.answer)
				}
			}
			if left, err := conn.left(); path == "/left" && (err != nil || left != checkedMax-1-i) {
				return fmt.Errorf("the answer to request %d says that %d are left: %v", i+1, left, err)
			}
		}
	}
	return nil
}

// serviceTurn drives a service, and then compares what it says is left of clients' budgets with the requests that it
// has admitted. What it decided without Redis, or for another client, shows there and does not count.
func serviceTurn(j job, exe string, s setup, bare bool) (turn, error) {
	server, err := j.start(exe)
	if err != nil {
		return turn{}, err
	}
	defer server.stop()
	var where address
	if err := server.read(&where); err != nil {
		return turn{}, err
	}
	requests := make([][]byte, clients)
	for i, key := range numbered("key-%05d", clients) {
		requests[i] = request("/", key)
	}
	admitted := make([]atomic.Int32, clients)
	warm, err := drive(where.Addr, requests, admitted, 0, j.Length/5)
	if err != nil {
		return turn{}, err
	}
	var told turn
	if err := errors.Join(server.tell(), server.read(&told)); err != nil {
		return turn{}, err
	}
	busy, err := redisCPU(j.Addrs)
	if err != nil {
		return turn{}, err
	}
	t, err := drive(where.Addr, requests, admitted, warm.Asked/connections, j.Length-j.Length/5)
	if err != nil {
		return turn{}, err
	}
	after, err := redisCPU(j.Addrs)
	if err != nil {
		return turn{}, err
	}
	if err := errors.Join(server.tell(), server.read(&told)); err != nil {
		return turn{}, err
	}
	t.RedisCPU, t.DeniedBefore, t.Mallocs, t.Said = after-busy, warm.Denied, told.Mallocs, told.Said
	if !bare {
		missing, of, err := audit(where.Addr, admitted, s.max)
		if err != nil {
			return turn{}, err
		}
		t.Local = t.Asked * missing / max(1, of)
	}
	return t, nil
}

// audit asks a service how much is left to some clients. It returns how many of their admissions are missing in their
// budgets.
func audit(addr string, admitted []atomic.Int32, most int) (missing, of int, err error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, 0, err
	}
	defer conn.close()
	for _, i := range rand.Perm(len(admitted))[:500] {
		ok, err := conn.ask(request("/left", fmt.Sprintf("key-%05d", i)))
		if err != nil || !ok {
			return 0, 0, fmt.Errorf("a client is not admitted after the turn: %v", err)
		}
		left, err := conn.left()
		if err != nil {
			return 0, 0, err
		}
		n := int(admitted[i].Load())
		of += n
		missing += max(n-(most-left-1), most-left-1-n)
	}
	return missing, of, nil
}

// drive has each of the connections ask as fast as it is answered. Each begins elsewhere in the requests, and skip
// further.
func drive(addr string, requests [][]byte, admitted []atomic.Int32, skip int, length time.Duration) (turn, error) {
	var (
		stop   atomic.Bool
		askers sync.WaitGroup
		turns  [connections]turn
		errs   [connections]error
		opened [connections]*conn
	)
	for i := range opened {
		var err error
		if opened[i], err = dial(addr); err != nil {
			return turn{}, err
		}
		defer opened[i].close()
	}
	runtime.GC()
	start := time.Now()
	for i, conn := range opened {
		askers.Go(func() {
			t := &turns[i]
			for place := i*len(requests)/connections + skip; !stop.Load(); place++ {
				place %= len(requests)
				sent := time.Now()
				ok, err := conn.ask(requests[place])
				t.samples = append(t.samples, time.Since(sent))
				if err != nil {
					errs[i] = err
					stop.Store(true)
					return
				}
				t.Asked++
				if ok {
					admitted[place].Add(1)
				} else {
					t.Denied++
				}
			}
		})
	}
	timer := time.AfterFunc(length, func() { stop.Store(true) })
	askers.Wait()
	timer.Stop()
	sum := turn{Elapsed: time.Since(start)}
	for i := range turns {
		sum.Asked += turns[i].Asked
		sum.Denied += turns[i].Denied
		sum.samples = append(sum.samples, turns[i].samples...)
	}
	sum.summarize()
	return sum, errors.Join(errs[:]...)
}

// conn is a client's keep-alive connection. It reads answers with little effort, since it shares the processors with
// the server.
type conn struct {
	net.Conn
	buffer [4096]byte
	answer []byte // the last one
}

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	return &conn{Conn: c}, err
}

func (c *conn) close() { c.Conn.Close() }

func request(path, key string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\n" + apiKey + ": " + key + "\r\n\r\n")
}

var (
	head200 = []byte("HTTP/1.1 200 ")
	head429 = []byte("HTTP/1.1 429 ")
	endHead = []byte("\r\n\r\n")
	length  = []byte("\r\nContent-Length: ")
)

// ask sends a request, waits for the whole answer, and reports whether the request was admitted.
func (c *conn) ask(request []byte) (bool, error) {
	if _, err := c.Write(request); err != nil {
		return false, err
	}
	n, whole := 0, 0
	for whole == 0 || n < whole {
		if n == len(c.buffer) {
			return false, errors.New("an answer is too long")
		}
		read, err := c.Read(c.buffer[n:])
		if err != nil {
			return false, err
		}
		n += read
		if whole == 0 {
			head := bytes.Index(c.buffer[:n], endHead)
			if head < 0 {
				continue
			}
			at := bytes.Index(c.buffer[:head+2], length)
			if at < 0 {
				return false, fmt.Errorf("an answer has no Content-Length:\n%s", c.buffer[:n])
			}
			body := 0
			for _, digit := range c.buffer[at+len(length) : head+2] {
				if digit < '0' || digit > '9' {
					break
				}
				body = 10*body + int(digit-'0')
			}
			whole = head + len(endHead) + body
		}
	}
	c.answer = c.buffer[:n]
	switch {
	case n != whole:
		return false, fmt.Errorf("an answer is followed by something else:\n%s", c.answer)
	case bytes.HasPrefix(c.answer, head200) && bytes.HasSuffix(c.answer, []byte("ok")):
		return true, nil
	case bytes.HasPrefix(c.answer, head429):
		return false, nil
	}
	return false, fmt.Errorf("answered\n%s", c.answer)
}

// has reports whether the last answer has a field.
func (c *conn) has(field string) bool {
	return bytes.Contains(bytes.ToLower(c.answer), bytes.ToLower([]byte("\r\n"+field+": ")))
}

var remaining = regexp.MustCompile(`(?i)\r\n(?:X-RateLimit-Remaining: |RateLimit: "bench";r=)(\d+)`)

// left is what the last answer says is left of the client's budget.
func (c *conn) left() (int, error) {
	match := remaining.FindSubmatch(c.answer)
	if match == nil {
		return 0, fmt.Errorf("an answer does not say what is left:\n%s", c.answer)
	}
	return strconv.Atoi(string(match[1]))
}
