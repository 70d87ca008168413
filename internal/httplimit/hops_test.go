package httplimit

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A client cannot change its key by what it writes to the left of what the proxy adds. And whatever the proxy adds, the
// key contains an address.
func FuzzForwardedFor(f *testing.F) {
	for _, row := range slices.Concat(forwardedFor, forwardedElements) {
		_, value, _ := strings.Cut(row.header, ":")
		f.Add(value, "")
		before, added, _ := strings.Cut(value, ",")
		f.Add(before, added)
	}
	headers := map[string]func(addr string) string{
		xForwardedFor: func(addr string) string { return addr },
		forwarded:     func(addr string) string { return `for="` + addr + `"` },
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		for header, write := range headers {
			key := ClientIP(TrustedProxies(trusted...), ProxyHeader(header))
			for _, fields := range [][]string{
				{one + "," + write("203.0.113.7")},
				{one, write("203.0.113.7")},
				{one, two + ", " + write("[2001:db8::1]:443")},
				{one + two, write("203.0.113.7:80") + ", " + write("10.0.0.2")},
			} {
				got, err := key(&http.Request{RemoteAddr: proxy, Header: http.Header{header: fields}})
				require.NoError(t, err)
				if got != "ip:203.0.113.7" && got != "ip:2001:db8::/64" {
					t.Fatalf("%q: %s", fields, got)
				}
			}
			got, err := key(&http.Request{RemoteAddr: proxy, Header: http.Header{header: {one, two}}})
			require.NoError(t, err)
			requireAddress(t, got)
		}
	})
}

// A well-formed list has the same elements, whether it is read from the right or from the left.
func FuzzCutLast(f *testing.F) {
	for _, row := range forwardedElements {
		f.Add(row.header)
	}
	f.Add(`a"b,c\"d",e`)
	f.Fuzz(func(t *testing.T, list string) {
		var parts []string
		for rest, more := list, true; more; {
			var last string
			rest, last, more = cutLast(rest, ',')
			parts = append(parts, last)
		}
		slices.Reverse(parts)
		require.Equal(t, list, strings.Join(parts, ","), "no part is lost")
		if forward, ok := cutForward(list); ok {
			require.Equal(t, forward, parts)
		}
	})
}

// cutForward splits a list as RFC 9110 describes it, from the left, and reports whether it is well-formed.
func cutForward(list string) (parts []string, ok bool) {
	quoted, start := false, 0
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\' && !quoted:
			return nil, false // only quoted strings have escapes
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			parts = append(parts, list[start:i])
			start = i + 1
		}
	}
	return append(parts, list[start:]), !quoted
}
