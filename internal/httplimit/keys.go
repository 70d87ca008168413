package httplimit

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// keyError is why a request has no key, in words that its sender may read.
type keyError struct{ detail string }

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

// Header returns a key function for the value of a header field, such as an API key. Only a hash of the value is kept, so
// that no secret reaches Redis. A request without a value has no key.
func Header(name string) func(*http.Request) (string, error) {
	checkFieldName(name)
	prefix := "header:" + strings.ToLower(name) + ":"
	missing := &keyError{"The " + name + " header is missing."}
	return func(r *http.Request) (string, error) {
		value := r.Header.Get(name)
		if value == "" {
			return "", missing
		}
		sum := sha256.Sum256([]byte(value))
		return prefix + base64.RawURLEncoding.EncodeToString(sum[:]), nil
	}
}

// FirstOf returns a key function that takes the first key there is. Its keys carry their place in the list, so that what
// one function returns never stands in for what another does. If there is none, the first function says why.
func FirstOf[C any, K ~func(C) (string, error)](keys []K) func(C) (string, error) {
	if len(keys) == 0 {
		panic("exactlimit: FirstOf needs at least one key")
	}
	for _, key := range keys {
		if key == nil {
			panic("exactlimit: FirstOf was given a nil key")
		}
	}
	return func(c C) (string, error) {
		var first error
		for i, key := range keys {
			found, err := key(c)
			if err == nil && found != "" {
				return strconv.Itoa(i) + ":" + found, nil
			}
			if first == nil {
				first = err
			}
		}
		return "", first
	}
}
