package httplimit

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// keyError is the reason why a request has no key, in words that the client may read.
type keyError struct {
	status    int // 401 if the key is missing
	detail    string
	challenge string // of WWW-Authenticate (RFC 9110, section 11.6.1), if there is a scheme for the credential
}

func (e *keyError) Error() string { return e.detail }

// configError is the reason why a key function works for no client, in words for the developers of the service. The
// request is refused with 500.
type configError struct{ text string }

func (e *configError) Error() string { return "exactlimit: " + e.text }

// configErrorf returns a configError.
func configErrorf(format string, args ...any) error {
	return &configError{fmt.Sprintf(format, args...)}
}

// checkFieldName panics if name is not the name of a header field, or if net/http does not keep that field in
// Request.Header.
func checkFieldName(name string) {
	if name == "" || strings.Trim(name, tokenChars) != "" {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a header field: write one such as \"X-API-Key\"", name))
	}
	if strings.EqualFold(name, "Host") {
		panic("exactlimit: net/http does not keep Host in Request.Header: " +
			"write a key function that returns Request.Host")
	}
}

// FirstOf returns a key function that counts by the first key that a request has. It skips a key only if it is missing:
// if it also skipped malformed keys, clients could choose what they are counted by. Keys begin with the index of their
// function, so that the keys of two functions are never equal. If a request has no key at all, the first error is
// returned.
func FirstOf[C any, K ~func(C) (string, error)](keys []K) func(C) (string, error) {
	checkKeys("FirstOf", keys)
	return func(c C) (string, error) {
		var first error
		for i, key := range keys {
			found, err := key(c)
			switch {
			case err != nil && !isMissing(err):
				return "", err
			case err == nil && found != "":
				return strconv.Itoa(i) + ":" + found, nil
			case first == nil:
				first = err
			}
		}
		return "", first
	}
}

// isMissing reports whether err means that a request has no key, rather than one that is refused.
func isMissing(err error) bool {
	var refused *keyError
	return errors.As(err, &refused) && refused.status == http.StatusUnauthorized
}

// Join returns a key function for all of keys together: requests that differ in one of them are different clients. Each
// key is preceded by its length, so that a client cannot write one key that looks like two. If one is missing, there is
// no key.
func Join[C any, K ~func(C) (string, error)](keys []K) func(C) (string, error) {
	checkKeys("Join", keys)
	return func(c C) (string, error) {
		joined := append(make([]byte, 0, 128), "join"...)
		for _, key := range keys {
			part, err := key(c)
			if err != nil || part == "" {
				return "", err
			}
			joined = append(joined, ':')
			joined = strconv.AppendInt(joined, int64(len(part)), 10)
			joined = append(joined, ':')
			joined = append(joined, part...)
		}
		return string(joined), nil
	}
}

func checkKeys[K ~func(C) (string, error), C any](function string, keys []K) {
	if len(keys) == 0 {
		panic("exactlimit: " + function + " needs at least one key")
	}
	for _, key := range keys {
		if key == nil {
			panic("exactlimit: " + function + " has a nil key")
		}
	}
}

// Route returns a key function for the template of the route that a request matched, such as "/users/:id". The template
// of requests that match no route is empty, so they are one client: otherwise each path would be a new one.
func Route[C any](template func(C) string) func(C) (string, error) {
	return func(c C) (string, error) { return "route:" + template(c), nil }
}

// Global is a key function that counts all requests together.
func Global[C any](C) (string, error) { return "global", nil }
