package torture

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// longest is more than Redis itself allows of anything.
const longest = 1 << 30

// readValue reads one whole value of the Redis protocol, of version 2 or 3, with all that is nested in it, and returns its
// bytes as they came. The error is io.EOF when there is none, and goes with the bytes of a value that breaks off.
func readValue(r *bufio.Reader) ([]byte, error) {
	value, err := appendValue(nil, r)
	if err == io.EOF && len(value) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return value, err
}

func appendValue(value []byte, r *bufio.Reader) ([]byte, error) {
	start := len(value)
	value, err := appendLine(value, r)
	if err != nil {
		return value, err
	}
	line := value[start:]
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return value, nil
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
	if err != nil || n > longest {
		return value, fmt.Errorf("not of the Redis protocol: %q", line)
	}
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return value, nil
		}
		for left := n + len("\r\n"); left > 0; { // in parts, since it is only said to be so long
			start, part := len(value), min(left, 1<<16)
			value = append(value, make([]byte, part)...)
			read, err := io.ReadFull(r, value[start:])
			if err != nil {
				return value[:start+read], err
			}
			left -= part
		}
		return value, nil
	case '%':
		n *= 2
	case '|':
		n = 2*n + 1 // attributes stand before the value they belong to
	case '*', '~', '>':
	default:
		return value, fmt.Errorf("not of the Redis protocol: %q", line)
	}
	for range n {
		if value, err = appendValue(value, r); err != nil {
			return value, err
		}
	}
	return value, nil
}

func appendLine(value []byte, r *bufio.Reader) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		value = append(value, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return value, err
		}
	}
}

// readRequest reads one request, and its words. It takes a line of words too, as people type them.
func readRequest(r *bufio.Reader) (request []byte, words []string, err error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, nil, err
	}
	if first[0] != '*' {
		request, err = appendLine(nil, r)
		return request, strings.Fields(string(request)), err
	}
	if request, err = readValue(r); err != nil {
		return request, nil, err
	}
	_, rest, _ := bytes.Cut(request, []byte("\n"))
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		n, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
		if err != nil || line[0] != '$' || n < 0 {
			return request, nil, fmt.Errorf("no request: %q", request)
		}
		words = append(words, string(after[:n]))
		rest = after[n+len("\r\n"):]
	}
	return request, words, nil
}
