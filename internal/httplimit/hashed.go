package httplimit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// HashOption changes how a value that a client sends becomes part of a key.
type HashOption func(*hashing)

// hashing makes keys of values that clients send, so that no secret among them leaves the process and none is too long.
type hashing struct {
	prefix string // what kind of value it is, and its name
	secret []byte // of the HMAC; nil for plain SHA-256
}

// HashKey makes the hash an HMAC (RFC 2104) under a secret of the service's.
func HashKey(secret []byte) HashOption {
	if len(secret) < 16 {
		panic(fmt.Sprintf("exactlimit: HashKey of %d bytes can be guessed:"+
			" write at least 16, the same for all instances, or leave it out", len(secret)))
	}
	secret = append([]byte(nil), secret...)
	return func(h *hashing) { h.secret = secret }
}

// most is the longest value that is read, in bytes: hashing takes longer the longer it is, and no credential is.
const most = 8 << 10

// hashed returns a key function for the value that read returns, if there is one. The name ends the prefix; behind it
// there is always the hash alone, of one length, so names cannot run into it. What the value is, what says in words that
// clients read.
//
// A value with a control character is refused. Services read through such characters, as a decoder of base64 does
// through line breaks, so a client could write one credential in any number of ways and be a new client with each. For
// the same reason whitespace around a value does not count, be it Unicode's: many services trim it.
func hashed[C any](kind, name, what string, read func(C) (string, error), opts []HashOption) func(C) (string, error) {
	h := hashing{prefix: kind + ":" + name + ":"}
	for _, opt := range opts {
		opt(&h)
	}
	missing := &keyError{status: http.StatusUnauthorized, detail: "The " + what + " is missing."}
	tooLong := &keyError{status: http.StatusBadRequest, detail: "The " + what + " is too long."}
	control := &keyError{status: http.StatusBadRequest, detail: "The " + what + " holds a control character."}
	return func(c C) (string, error) {
		value, err := read(c)
		switch {
		case err != nil:
			return "", err
		case value == "":
			return "", missing
		case len(value) > most:
			return "", tooLong
		case strings.ContainsFunc(value, unicode.IsControl):
			return "", control
		}
		return h.key(strings.TrimSpace(value)), nil
	}
}

func (h *hashing) key(value string) string {
	var sum [sha256.Size]byte
	if h.secret == nil {
		sum = sha256.Sum256([]byte(value))
	} else {
		mac := hmac.New(sha256.New, h.secret)
		mac.Write([]byte(value))
		mac.Sum(sum[:0])
	}
	var buffer [128]byte
	return string(base64.RawURLEncoding.AppendEncode(append(buffer[:0], h.prefix...), sum[:]))
}

// Header returns a key function for the value of a header field, such as an API key. Of two fields nobody can say which one
// who comes after will read, so they are refused.
func Header(name string, opts ...HashOption) func(*http.Request) (string, error) {
	checkFieldName(name)
	canonical := http.CanonicalHeaderKey(name)
	twice := &keyError{status: http.StatusBadRequest, detail: "The " + name + " header is there more than once."}
	return hashed("header", strings.ToLower(name), name+" header", func(r *http.Request) (string, error) {
		return one(r.Header[canonical], twice)
	}, opts)
}

// one returns the only value of a field, without the whitespace around it: HTTP/1.1 has removed that, and Go's HTTP/2
// has not.
func one(values []string, twice error) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return trim(values[0]), nil
	}
	return "", twice
}

// BearerToken returns a key function for the token of the Authorization field (RFC 6750, section 2.1).
func BearerToken(opts ...HashOption) func(*http.Request) (string, error) {
	const challenge = "Bearer" // RFC 6750, section 3
	missing := &keyError{status: http.StatusUnauthorized, detail: "The bearer token is missing.", challenge: challenge}
	malformed := &keyError{status: http.StatusBadRequest, detail: "The Authorization header holds no single bearer token.", challenge: challenge}
	return hashed("bearer", "", "bearer token", func(r *http.Request) (string, error) {
		value, err := one(r.Header["Authorization"], malformed)
		if err != nil {
			return "", err
		}
		if strings.ContainsFunc(value, isOddSpace) { // some parsers read a token behind a tab
			return "", malformed
		}
		scheme, token, _ := strings.Cut(value, " ")
		token = trim(token)
		switch {
		case !strings.EqualFold(scheme, "Bearer") || token == "":
			return "", missing
		case strings.ContainsAny(token, " ,"): // who comes after may read the first part, or the last
			return "", malformed
		}
		return token, nil
	}, opts)
}

// isOddSpace reports whether a parser may take r for a space, or pass over it, which is none in HTTP's grammar.
func isOddSpace(r rune) bool { return unicode.IsControl(r) || r != ' ' && unicode.IsSpace(r) }

// Cookie returns a key function for the value of a cookie. Escapes are read where they can be, as Gin does and as
// handlers in Echo may, so that no other spelling of a value is another client.
func Cookie(name string, opts ...HashOption) func(*http.Request) (string, error) {
	if name == "" || strings.Trim(name, tokenChars) != "" {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a cookie: write one such as \"session\"", name))
	}
	return hashed("cookie", name, name+" cookie", func(r *http.Request) (string, error) {
		cookie, err := r.Cookie(name)
		if err != nil { // there is none
			return "", nil
		}
		if value, err := url.QueryUnescape(cookie.Value); err == nil {
			return value, nil
		}
		return cookie.Value, nil
	}, opts)
}

// Query returns a key function for a parameter of the query, as the framework reads it.
func Query[C any](name string, read func(c C) string, opts []HashOption) func(C) (string, error) {
	if name == "" {
		panic("exactlimit: Query of no name: write that of a parameter, such as \"api_key\"")
	}
	return hashed("query", name, name+" parameter of the query", func(c C) (string, error) { return read(c), nil }, opts)
}

// PathParam returns a key function for a parameter of the route. The one that reads it says whether the route has it.
func PathParam[C any](name string, read func(c C) (value string, found bool), opts []HashOption) func(C) (string, error) {
	if name == "" || strings.Trim(name, ":*/") != name {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a parameter: write \"id\" for the route \"/users/:id\"", name))
	}
	unknown := mistakef("PathParam(%q) on a route that has no such parameter: put it on routes such as \"/users/:%s\"", name, name)
	empty := &keyError{status: http.StatusBadRequest, detail: "The " + name + " in the path is empty."}
	return hashed("path", name, name+" in the path", func(c C) (string, error) {
		value, found := read(c)
		switch {
		case !found:
			return "", unknown
		case value == "":
			return "", empty
		}
		return value, nil
	}, opts)
}
