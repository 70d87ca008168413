package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// longest is more bytes or elements than Redis allows in a value.
const longest = 1 << 30

// ReadValue reads a whole value of the Redis protocol, version 2 or 3, with all nested values, and returns its bytes as
// they came. The error is io.EOF if there is no value. If the value is cut off, ReadValue returns its bytes and an
// error.
func ReadValue(r *bufio.Reader) ([]byte, error) {
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
		for left := n + len("\r\n"); left > 0; { // in parts, since a wrong length would allocate too much
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
		n = 2*n + 1 // attributes precede the value they belong to
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

// ReadRequest reads a request, and returns its bytes and its words. A request may also be a line of words, as people
// type them. An empty line is a request without words.
func ReadRequest(r *bufio.Reader) (request []byte, words []string, err error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, nil, err
	}
	if first[0] != '*' {
		request, err = appendLine(nil, r)
		return request, strings.Fields(string(request)), err
	}
	if request, err = ReadValue(r); err != nil {
		return request, nil, err
	}
	words, err = elements(request)
	return request, words, err
}

// elements returns the elements of an array of strings.
func elements(array []byte) (texts []string, err error) {
	_, rest, _ := bytes.Cut(array, []byte("\n"))
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		n, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
		if err != nil || line[0] != '$' || n < 0 {
			return nil, fmt.Errorf("not an array of strings: %q", array)
		}
		texts = append(texts, string(after[:n]))
		rest = after[n+len("\r\n"):]
	}
	return texts, nil
}

// textOf returns a reply as text: a string, a number, or the lines of an array of strings. An error reply is an error.
func textOf(reply []byte) (string, error) {
	line, rest, _ := strings.Cut(string(reply), "\r\n")
	switch line[0] {
	case '-':
		return "", errors.New(line[1:])
	case '$':
		return strings.TrimSuffix(rest, "\r\n"), nil
	case '*':
		texts, err := elements(reply)
		return strings.Join(texts, "\n"), err
	}
	return line[1:], nil
}
