package httplimit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// values are what clients may send. Some look like keys of other functions, or like two values.
var values = []string{
	"hunter2", "hunter3", "HUNTER2", "hunter 2", "ip:203.0.113.7", "203.0.113.7", "global", "route:/", "0:global",
	"header:x-api-key:", "join:3:abc", "a:b", "a}b", "%7D", "a%20b", "a b", "ü", "\xff",
	strings.Repeat("k", maxValueLen),
}

func header(name string, values ...string) *http.Request {
	return &http.Request{Header: http.Header{http.CanonicalHeaderKey(name): values}}
}

// cookie returns a request with a cookie, escaped as clients escape it.
func cookie(name, value string) *http.Request {
	return header("Cookie", name+"="+url.QueryEscape(value))
}

// identity is a key function that returns its argument.
func identity(s string) (string, error) { return s, nil }

func constant(found string, err error) func(string) (string, error) {
	return func(string) (string, error) { return found, err }
}

// No key contains what a client sends, however short that is. Different values are different clients, and so is the
// same value in different places of a request.
func TestHashedValues(t *testing.T) {
	secret, other := HashKey([]byte("0123456789abcdef")), HashKey([]byte("0123456789abcdeF"))
	read := func(s string) string { return s }
	found := func(s string) (string, bool) { return s, true }
	seen := map[string]string{}
	for name, key := range map[string]func(string) (string, error){
		"header":       func(s string) (string, error) { return Header("X-API-Key")(header("X-API-Key", s)) },
		"other header": func(s string) (string, error) { return Header("X-Other")(header("X-Other", s)) },
		"hmac":         func(s string) (string, error) { return Header("X-API-Key", secret)(header("X-API-Key", s)) },
		"other hmac":   func(s string) (string, error) { return Header("X-API-Key", other)(header("X-API-Key", s)) },
		"cookie":       func(s string) (string, error) { return Cookie("id")(cookie("id", s)) },
		"other cookie": func(s string) (string, error) { return Cookie("ID")(cookie("ID", s)) },
		"query":        Query("id", read, nil),
		"odd query":    Query("id:id", read, nil),
		"path":         PathParam("id", found, nil),
	} {
		for _, value := range values {
			got, err := key(value)
			require.NoError(t, err)
			again, err := key(value)
			require.NoError(t, err)
			require.Equal(t, got, again)
			assert.LessOrEqual(t, len(got), 80, "however long the value")
			if strings.Contains(value, "hunter") {
				assert.NotContains(t, got, value)
			}
			source := fmt.Sprintf("%s of %.20q", name, value)
			assert.NotContains(t, seen, got, source)
			seen[got] = source
		}
		_, err := key("")
		var missing *keyError
		require.ErrorAs(t, err, &missing, name)
		_, err = key(strings.Repeat("k", maxValueLen+1))
		assert.ErrorContains(t, err, "is too long.", name)
		// Base64 decoders skip these characters, or services trim them.
		for _, control := range []string{"\n", "\r\n", "\t", "\x00", "\x7f", "\u0085"} {
			_, err = key("hunt" + control + "er2")
			assert.ErrorContains(t, err, "contains a control character.", "%s with %q", name, control)
		}
	}
}

// The hash is SHA-256, or HMAC-SHA-256 if there is a secret (RFC 4231, test case 1).
func TestHashes(t *testing.T) {
	h := hasher{prefix: ":"}
	assert.Equal(t, ":ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0", h.key("abc"))
	h.secret = []byte("\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b")
	sum, err := base64.RawURLEncoding.DecodeString(h.key("Hi There")[1:])
	require.NoError(t, err)
	assert.Equal(t, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7", fmt.Sprintf("%x", sum))
}

func TestHeader(t *testing.T) {
	key := Header("X-API-Key")
	_, err := key(header("X-API-Key"))
	assert.EqualError(t, err, "The X-API-Key header is missing.")
	_, err = key(header("X-API-Key", "ann", "bob"))
	assert.EqualError(t, err, "The X-API-Key header appears more than once.")
	_, err = key(header("X-API-Key", "ann", "ann"))
	assert.Error(t, err)

	// net/http trims the whitespace around a value in HTTP/1.1, but not in HTTP/2.
	want, err := key(header("X-API-Key", "ann"))
	require.NoError(t, err)
	for _, value := range []string{" ann", "ann ", "\t ann \t"} {
		got, err := key(header("X-API-Key", value))
		assert.NoError(t, err, "%q", value)
		assert.Equal(t, want, got, "%q", value)
	}
	_, err = key(header("X-API-Key", " \t"))
	assert.EqualError(t, err, "The X-API-Key header is missing.")

	for _, name := range []string{"X-API-Key", "a", "x_y", "!#$%&'*+-.^_`|~09"} {
		assert.NotPanics(t, func() { Header(name) }, name)
	}
	for _, name := range []string{"", "host", " ", "X API", "X-API-Key:", "ü", "a\n", "a,b", `"a"`, "(a)", "a\x7f"} {
		assert.Panics(t, func() { Header(name) }, name)
	}
	assert.PanicsWithValue(t, "exactlimit: a HashKey of 15 bytes can be guessed:"+
		" write at least 16 bytes, the same in all instances, or leave it out",
		func() { HashKey([]byte("0123456789abcde")) })
	for _, name := range []string{"", "a b", "a=b", "a;b"} {
		assert.Panics(t, func() { Cookie(name) }, name)
	}
	for _, name := range []string{"", ":id", "*path", "/users/:id"} {
		assert.Panics(t, func() { PathParam(name, func(string) (string, bool) { return "", true }, nil) }, name)
	}
}

const notOneToken = "The Authorization header does not contain exactly one bearer token."

var bearers = []struct {
	value string
	token string // empty if the request is refused
	err   string
}{
	{"Bearer abc.def-_~+/==", "abc.def-_~+/==", ""},
	{"bearer abc.def-_~+/==", "abc.def-_~+/==", ""},
	{" BEARER   abc.def-_~+/== ", "abc.def-_~+/==", ""},
	{"Bearer 1|abc", "1|abc", ""},
	{"Bearer ABC", "ABC", ""},
	{"Bearer bearer", "bearer", ""},
	{"", "", "The bearer token is missing."},
	{"abc", "", "The bearer token is missing."},
	{"Bearer", "", "The bearer token is missing."},
	{"Bearer  ", "", "The bearer token is missing."},
	{"Bearerabc", "", "The bearer token is missing."},
	{"Bearer\tabc", "", notOneToken}, // some parsers accept it
	{"Bearer \tabc", "", notOneToken},
	{"Bearer abc\x00", "", notOneToken},
	{"Basic YTpi", "", "The bearer token is missing."},
	{"Bearer a b", "", notOneToken},
	{"Bearer a\tb", "", notOneToken},
	{"Bearer a, Bearer b", "", notOneToken},
	{"Bearer a,b", "", notOneToken},
}

// A cookie is one client however it is escaped.
func TestCookie(t *testing.T) {
	key := Cookie("session")
	want, err := key(header("Cookie", "session=a b"))
	require.NoError(t, err)
	for _, cookie := range []string{
		"session=a%20b", "session=a+b", "session=%61 b", `session="a b"`, "x=1; session=a b", "session=a b; session=c",
	} {
		got, err := key(header("Cookie", cookie))
		assert.NoError(t, err, cookie)
		assert.Equal(t, want, got, cookie)
	}
	for cookie, want := range map[string]string{
		"":                "The session cookie is missing.",
		"Session=a":       "The session cookie is missing.",
		"session=":        "The session cookie is missing.",
		"session=a%0A":    "The session cookie contains a control character.",
		"session=a%0D%0A": "The session cookie contains a control character.",
	} {
		_, err := key(header("Cookie", cookie))
		assert.EqualError(t, err, want, cookie)
	}
	_, err = key(header("Cookie", "session=100%")) // not escaped at all
	assert.NoError(t, err)
}

func TestBearerToken(t *testing.T) {
	key := BearerToken()
	for _, row := range bearers {
		got, err := key(header("Authorization", row.value))
		if row.token == "" {
			assert.EqualError(t, err, row.err, row.value)
			continue
		}
		want, _ := key(header("Authorization", "Bearer "+row.token))
		assert.NoError(t, err, row.value)
		assert.Equal(t, want, got, row.value)
	}
	_, err := key(header("Authorization", "Bearer a", "Bearer a"))
	assert.EqualError(t, err, notOneToken)
}

// FirstOf skips a key only if it is missing. It returns any other error, because otherwise a client could choose
// what it is counted by.
func TestFirstOf(t *testing.T) {
	type key = func(string) (string, error)
	broken, config := errors.New("broken"), configErrorf("config")
	missing := &keyError{status: http.StatusUnauthorized, detail: "missing"}
	missingToo := &keyError{status: http.StatusUnauthorized, detail: "missing, too"}
	malformed := &keyError{status: http.StatusBadRequest, detail: "malformed"}
	for _, row := range []struct {
		name string
		keys []key
		want string
		err  error
	}{
		{"the first", []key{constant("ann", nil), constant("bob", nil)}, "0:ann", nil},
		{"an empty key is missing", []key{constant("", nil), constant("ann", nil)}, "1:ann", nil},
		{"a missing credential is missing", []key{constant("", missing), constant("ann", nil)}, "1:ann", nil},
		{"also if it is wrapped",
			[]key{constant("", fmt.Errorf("own: %w", missing)), constant("ann", nil)}, "1:ann", nil},
		{"the same string of another function is another client",
			[]key{constant("", nil), constant("", nil), constant("ann", nil)}, "2:ann", nil},
		{"no key at all", []key{constant("", nil), constant("", nil)}, "", nil},
		{"the first error of a missing key", []key{constant("", nil), constant("", missing), constant("", missingToo)},
			"", missing},
		{"a malformed credential is refused", []key{constant("", malformed), constant("ann", nil)}, "", malformed},
		{"also after one that is missing", []key{constant("", missing), constant("", malformed), constant("ann", nil)},
			"", malformed},
		{"an error of the service is returned", []key{constant("", broken), constant("ann", nil)}, "", broken},
		{"also with a key beside it", []key{constant("bob", broken), constant("ann", nil)}, "", broken},
		{"a configuration error is returned", []key{constant("", config), constant("ann", nil)}, "", config},
	} {
		got, err := FirstOf(row.keys)("")
		assert.Equal(t, row.want, got, row.name)
		assert.Equal(t, row.err, err, row.name)
	}
}

// FirstOf does not skip the refusals of the other key functions either.
func TestFirstOfRefusals(t *testing.T) {
	either := FirstOf([]func(*http.Request) (string, error){Header("X-API-Key"), BearerToken(), ClientIP()})
	for _, row := range []struct {
		header http.Header
		want   string // the beginning of the key or of the error
	}{
		{http.Header{}, "2:ip:203.0.113.7"},
		{http.Header{"X-Api-Key": {""}}, "2:ip:203.0.113.7"},
		{http.Header{"Authorization": {"Basic YTpi"}}, "2:ip:203.0.113.7"},
		{http.Header{"X-Api-Key": {"ann"}, "Authorization": {"Bearer a b"}}, "0:header:"},
		{http.Header{"X-Api-Key": {"ann", "ann"}}, "The X-API-Key header appears more than once."},
		{http.Header{"X-Api-Key": {strings.Repeat("k", maxValueLen+1)}}, "The X-API-Key header is too long."},
		{http.Header{"X-Api-Key": {"a\tb"}}, "The X-API-Key header contains a control character."},
		{http.Header{"Authorization": {"Bearer a b"}}, notOneToken},
		{http.Header{"Authorization": {"Bearer\ta"}}, notOneToken},
		{http.Header{"Authorization": {"Bearer a", "Bearer a"}}, notOneToken},
	} {
		got, err := either(&http.Request{RemoteAddr: "203.0.113.7:1", Header: row.header})
		if err != nil {
			got = err.Error()
		}
		assert.True(t, strings.HasPrefix(got, row.want), "%.80q: %s", row.header, got)
	}
}

func TestJoin(t *testing.T) {
	type key = func(string) (string, error)
	broken, later := errors.New("broken"), errors.New("broken later")
	for _, row := range []struct {
		name string
		keys []key
		want string
		err  error
	}{
		{"both", []key{constant("ann", nil), constant("bob", nil)}, "join:3:ann:3:bob", nil},
		{"the parts have lengths", []key{constant("an", nil), constant("nbob", nil)}, "join:2:an:4:nbob", nil},
		{"a part that looks like two",
			[]key{constant("ann:3:bob", nil), constant("x", nil)}, "join:9:ann:3:bob:1:x", nil},
		{"one", []key{constant("ann", nil)}, "join:3:ann", nil},
		{"one is missing", []key{constant("ann", nil), constant("", nil)}, "", nil},
		{"the first error is returned",
			[]key{constant("ann", nil), constant("", broken), constant("", later)}, "", broken},
	} {
		got, err := Join(row.keys)("")
		assert.Equal(t, row.want, got, row.name)
		assert.Equal(t, row.err, err, row.name)
	}
	assert.PanicsWithValue(t, "exactlimit: Join needs at least one key", func() { Join([]key{}) })
	assert.PanicsWithValue(t, "exactlimit: Join has a nil key", func() { Join([]key{identity, nil}) })
}

func TestRouteAndGlobal(t *testing.T) {
	for template, want := range map[string]string{"/users/:id": "route:/users/:id", "/": "route:/", "": "route:"} {
		got, err := Route(func(s string) string { return s })(template)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	got, err := Global("any request")
	require.NoError(t, err)
	assert.Equal(t, "global", got)
}

// Different values have different keys, and so have the same values of different functions.
func FuzzHashedKeys(f *testing.F) {
	for i, value := range values {
		f.Add(value, values[(i+1)%len(values)])
	}
	keys := []func(string) (string, error){
		func(s string) (string, error) { return Cookie("id")(cookie("id", s)) },
		Query("id", func(s string) string { return s }, nil),
		PathParam("id", func(s string) (string, bool) { return s, true }, nil),
		func(s string) (string, error) { return Header("id")(header("id", s)) },
		func(s string) (string, error) { return Header("id", HashKey(make([]byte, 16)))(header("id", s)) },
		func(s string) (string, error) { return ClientIP()(&http.Request{RemoteAddr: s}) },
		Route(func(s string) string { return s }),
		Global[string],
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		seen := map[string]int{}
		for i, key := range keys {
			keyA, err := key(a)
			if err != nil {
				require.Empty(t, keyA)
				continue
			}
			require.Less(t, len(keyA), 128+len(a))
			require.NotContains(t, seen, keyA, "functions %d and %d", i, seen[keyA])
			seen[keyA] = i
			if keyB, err := key(b); err == nil && i < 5 {
				// Whitespace around a value is not part of it.
				require.Equal(t, trimSpace(a) == trimSpace(b), keyA == keyB)
			}
		}
	})
}

// The key depends on the token alone, not on how the header is written.
func FuzzBearerToken(f *testing.F) {
	for _, row := range bearers {
		f.Add(row.value)
	}
	key := BearerToken()
	f.Fuzz(func(t *testing.T, value string) {
		got, err := key(header("Authorization", value))
		if err != nil {
			require.Empty(t, got)
			return
		}
		again, err := key(header("Authorization", "bearer "+trimSpace(trimSpace(value)[len("bearer "):])))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

// Joined keys are equal only if all parts are, whatever clients write into them, and can be split into the parts again.
func FuzzJoin(f *testing.F) {
	f.Add("ann", "bob", "an", "nbob")
	f.Add("ann:3:bob", "x", "ann", "bob:1:x")
	f.Add("1:", ":1", "1", "::1")
	for i, value := range values {
		f.Add(value, values[(i+1)%len(values)], values[(i+2)%len(values)], "x")
	}
	type key = func(string) (string, error)
	join := func(parts ...string) (string, error) {
		var keys []key
		for _, part := range parts {
			keys = append(keys, constant(part, nil))
		}
		return Join(keys)("")
	}
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		joined, err := join(a, b)
		require.NoError(t, err)
		if a == "" || b == "" {
			require.Empty(t, joined)
			return
		}
		require.Equal(t, []string{a, b}, unjoin(t, joined))
		for _, others := range [][]string{{c, d}, {a + b}, {a, b, c}, {b, a}, {a}, {a + ":" + b}} {
			other, _ := join(others...)
			if other != "" {
				equal := fmt.Sprintf("%q", []string{a, b}) == fmt.Sprintf("%q", others)
				require.Equal(t, equal, joined == other, others)
			}
			first, _ := FirstOf([]key{constant("", nil), constant(other, nil)})("")
			require.NotEqual(t, joined, first)
		}
	})
}

// unjoin splits a joined key into its parts.
func unjoin(t *testing.T, joined string) (parts []string) {
	rest, ok := strings.CutPrefix(joined, "join")
	require.True(t, ok)
	for rest != "" {
		length, behind, ok := strings.Cut(rest[1:], ":")
		require.True(t, ok)
		n, err := strconv.Atoi(length)
		require.NoError(t, err)
		parts = append(parts, behind[:n])
		rest = behind[n:]
	}
	return parts
}
