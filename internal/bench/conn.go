package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"
)

// conn is a keep-alive connection of a client. Its parser of responses is simple and fast, because the client shares
// the processors with the server.
type conn struct {
	net.Conn
	buffer   [4096]byte
	response []byte // the last one
}

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	return &conn{Conn: c}, err
}

func (c *conn) close() { c.Conn.Close() }

// request returns the bytes of a request.
func request(path, key string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\n" + apiKey + ": " + key + "\r\n\r\n")
}

var (
	head200 = []byte("HTTP/1.1 200 ")
	head429 = []byte("HTTP/1.1 429 ")
	endHead = []byte("\r\n\r\n")
	length  = []byte("\r\nContent-Length: ")
)

// send sends a request, waits for the whole response, and reports whether the request was admitted.
func (c *conn) send(request []byte) (bool, error) {
	if _, err := c.Write(request); err != nil {
		return false, err
	}
	n, whole := 0, 0
	for whole == 0 || n < whole {
		if n == len(c.buffer) {
			return false, errors.New("a response is too long")
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
				return false, fmt.Errorf("a response has no Content-Length:\n%s", c.buffer[:n])
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
	c.response = c.buffer[:n]
	switch {
	case n != whole:
		return false, fmt.Errorf("a response is followed by more bytes:\n%s", c.response)
	case bytes.HasPrefix(c.response, head200) && bytes.HasSuffix(c.response, []byte("ok")):
		return true, nil
	case bytes.HasPrefix(c.response, head429):
		return false, nil
	}
	return false, fmt.Errorf("unexpected response:\n%s", c.response)
}

// has reports whether the last response has a field.
func (c *conn) has(field string) bool {
	return bytes.Contains(bytes.ToLower(c.response), bytes.ToLower([]byte("\r\n"+field+": ")))
}

var remainingField = regexp.MustCompile(`(?i)\r\n(?:X-RateLimit-Remaining: |RateLimit: "bench";r=)(\d+)`)

// remaining returns the remaining budget of the client according to the last response.
func (c *conn) remaining() (int, error) {
	match := remainingField.FindSubmatch(c.response)
	if match == nil {
		return 0, fmt.Errorf("a response has no remaining budget:\n%s", c.response)
	}
	return strconv.Atoi(string(match[1]))
}
