package httplimit

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// keyError is why a request has no key, in words that its sender may read.
type keyError struct {
	status    int // 401 if the key is missing
	detail    string
	challenge string // of WWW-Authenticate (RFC 9110, section 11.6.1), where there is a scheme for it
}

func (e *keyError) Error() string { return e.detail }

// mistake is why a key function cannot work in the service as it is written, whoever asks. Its words are for the service.
type mistake struct{ text string }

func (e *mistake) Error() string { return "exactlimit: " + e.text }

// Mistake is the error of a key function that cannot work in the service as it is written. It is answered with 500.
func Mistake(text string) error { return &mistake{text} }

func mistakef(format string, args ...any) error { return Mistake(fmt.Sprintf(format, args...)) }

// checkFieldName panics where a name is no header field's, or not of one that net/http keeps with the others.
func checkFieldName(name string) {
	if name == "" || strings.Trim(name, tokenChars) != "" {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a header field: write one such as \"X-API-Key\"", name))
	}
	if strings.EqualFold(name, "Host") {
		panic("exactlimit: net/http takes Host out of the header fields: write a key function that returns the request's Host")
	}
}

// FirstOf returns a key function that counts by the first key that a request has. Only a key that is missing is passed
// over. A client whose malformed key were passed over too could choose what it is counted by. Keys carry their place in
// the list, so that a key of one function never equals that of another. If a request has no key at all, the first
// function that says why is the one that is answered.
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

// isMissing reports whether an error says that a request has no key, rather than one that is refused.
func isMissing(err error) bool {
	var refused *keyError
	return errors.As(err, &refused) && refused.status == http.StatusUnauthorized
}

// Join returns a key function for all of keys together: who differs in one of them is another client. Each part has its
// length before it, so what a client writes into one never reads as the next. If one is missing there is no key.
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
			panic("exactlimit: " + function + " was given a nil key")
		}
	}
}

// Route returns a key function for the template of the route that a request matched, as "/users/:id". Where it matched none
// the template is empty, so all such requests are one client: their paths are whatever anybody writes.
func Route[C any](template func(C) string) func(C) (string, error) {
	return func(c C) (string, error) { return "route:" + template(c), nil }
}

// Global is a key function that takes everybody for one client.
func Global[C any](C) (string, error) { return "global", nil }
