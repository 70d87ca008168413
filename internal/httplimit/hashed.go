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
type HashOption func(*hasher)

// hasher makes keys of values that clients send, so that no secret leaves the process, and all keys are short.
type hasher struct {
	prefix string // the kind of value, and its name
	secret []byte // of the HMAC; nil for plain SHA-256
}

// HashKey makes the hash an HMAC (RFC 2104) under a secret of the service.
func HashKey(secret []byte) HashOption {
	if len(secret) < 16 {
		panic(fmt.Sprintf("exactlimit: a HashKey of %d bytes can be guessed:"+
			" write at least 16 bytes, the same in all instances, or leave it out", len(secret)))
	}
	secret = append([]byte(nil), secret...)
	return func(h *hasher) { h.secret = secret }
}

// maxValueLen is the length in bytes of the longest value that is accepted. No credential is longer, and hashing a
// longer value costs more time.
const maxValueLen = 8 << 10

// hashedKey returns a key function for the value that read returns; the empty value is a missing one. A key is the kind
// of value, its name and a hash of fixed length, so that no value under one name equals a value under another.
// description names the value in problem bodies.
//
// A value with a control character is refused. Many parsers skip such characters, as base64 decoders skip line breaks,
// so a client could write one credential in any number of ways, and be a new client with each. For the same reason,
// whitespace around a value, including Unicode's, does not count: many services trim it.
func hashedKey[C any](
	kind, name, description string, read func(C) (string, error), opts []HashOption,
) func(C) (string, error) {
	h := hasher{prefix: kind + ":" + name + ":"}
	for _, opt := range opts {
		opt(&h)
	}
	missing := &keyError{status: http.StatusUnauthorized, detail: "The " + description + " is missing."}
	tooLong := &keyError{status: http.StatusBadRequest, detail: "The " + description + " is too long."}
	control := &keyError{
		status: http.StatusBadRequest,
		detail: "The " + description + " contains a control character.",
	}
	return func(c C) (string, error) {
		value, err := read(c)
		switch {
		case err != nil:
			return "", err
		case value == "":
			return "", missing
		case len(value) > maxValueLen:
			return "", tooLong
		case strings.ContainsFunc(value, unicode.IsControl):
			return "", control
		}
		return h.key(strings.TrimSpace(value)), nil
	}
}

func (h *hasher) key(value string) string {
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

// Header returns a key function for the value of a header field, such as an API key. A request with two such fields is
// refused, because handlers may read either.
func Header(name string, opts ...HashOption) func(*http.Request) (string, error) {
	checkFieldName(name)
	canonical := http.CanonicalHeaderKey(name)
	duplicate := &keyError{
		status: http.StatusBadRequest,
		detail: "The " + name + " header appears more than once.",
	}
	return hashedKey("header", strings.ToLower(name), name+" header", func(r *http.Request) (string, error) {
		return singleValue(r.Header[canonical], duplicate)
	}, opts)
}

// singleValue returns the value of a field that has at most one, and errDuplicate if it has more. It trims the
// whitespace around the value, which net/http does in HTTP/1.1 but not in HTTP/2.
func singleValue(values []string, errDuplicate error) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return trimSpace(values[0]), nil
	}
	return "", errDuplicate
}

// BearerToken returns a key function for the token of the Authorization field (RFC 6750, section 2.1).
func BearerToken(opts ...HashOption) func(*http.Request) (string, error) {
	const challenge = "Bearer" // RFC 6750, section 3
	missing := &keyError{
		status:    http.StatusUnauthorized,
		detail:    "The bearer token is missing.",
		challenge: challenge,
	}
	malformed := &keyError{
		status:    http.StatusBadRequest,
		detail:    "The Authorization header does not contain exactly one bearer token.",
		challenge: challenge,
	}
	return hashedKey("bearer", "", "bearer token", func(r *http.Request) (string, error) {
		value, err := singleValue(r.Header["Authorization"], malformed)
		if err != nil {
			return "", err
		}
		if strings.ContainsFunc(value, isAmbiguousSpace) { // some parsers read a token behind a tab
			return "", malformed
		}
		scheme, token, _ := strings.Cut(value, " ")
		token = trimSpace(token)
		switch {
		case !strings.EqualFold(scheme, "Bearer") || token == "":
			return "", missing
		case strings.ContainsAny(token, " ,"): // handlers may read the first part, or the last
			return "", malformed
		}
		return token, nil
	}, opts)
}

// isAmbiguousSpace reports whether r is not a space in HTTP's grammar, but may be one to a parser, or be skipped by it.
func isAmbiguousSpace(r rune) bool { return unicode.IsControl(r) || r != ' ' && unicode.IsSpace(r) }

// Cookie returns a key function for the value of a cookie. Its %-escapes are decoded if possible, as by Gin and perhaps
// by handlers in Echo, so that a value is one client however it is escaped.
func Cookie(name string, opts ...HashOption) func(*http.Request) (string, error) {
	if name == "" || strings.Trim(name, tokenChars) != "" {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a cookie: write one such as \"session\"", name))
	}
	return hashedKey("cookie", name, name+" cookie", func(r *http.Request) (string, error) {
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
		panic("exactlimit: Query(\"\"): write the name of a parameter, such as \"api_key\"")
	}
	return hashedKey("query", name, name+" query parameter", func(c C) (string, error) { return read(c), nil }, opts)
}

// PathParam returns a key function for a parameter of the route. read also reports whether the route has the parameter.
func PathParam[C any](
	name string, read func(C) (value string, found bool), opts []HashOption,
) func(C) (string, error) {
	if name == "" || strings.Trim(name, ":*/") != name {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a parameter:"+
			" write \"id\" for the route \"/users/:id\"", name))
	}
	unknown := configErrorf("PathParam(%q) on a route that has no such parameter:"+
		" use it on routes such as \"/users/:%s\"", name, name)
	empty := &keyError{status: http.StatusBadRequest, detail: "The " + name + " path parameter is empty."}
	return hashedKey("path", name, name+" path parameter", func(c C) (string, error) {
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
