package echolimit

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// KeyFunc returns the key that a request is counted by. Different strings are different clients. An empty string
// means that the request has no key, and an error that the key is not known. In both cases the request is refused,
// with 401 unless stated otherwise below: it neither passes uncounted nor shares a budget with other such requests.
// The text of your own errors goes to the limiter's logger, never to the client.
//
// Begin your own keys with their kind, as in "user:" + id, so that no id equals a key of another kind. Keys are part of
// the names of logs in Redis, so hash what is secret. A KeyFunc is called concurrently.
type KeyFunc func(echo.Context) (string, error)

// ClientIP counts by the address of the client, and by /64 for IPv6. By default this is the socket's peer, and no
// header is trusted, unlike echo.Context.RealIP, which by default believes X-Forwarded-For from any client. Behind a
// proxy, all requests come from the address of the proxy, so name your proxies with TrustedProxies.
//
// IPv4 addresses count as such however they are written: mapped into IPv6, or under NAT64's prefix 64:ff9b::/96. A 6to4
// or Teredo address (2002::/16, 2001::/32) counts by the IPv4 address in it, whose host may choose the rest. Under
// 64:ff9b:1::/48, which RFC 8215 reserves for local translators, each address is a client: it stands for one IPv4 host,
// but only the operator knows which of its bits are the IPv4 address. So that host is another client when it connects
// without the translator.
//
// Requests on a connection without an address are refused with 500. So are requests on a Unix socket, unless
// TrustedProxies has "unix".
func ClientIP(opts ...AddressOption) KeyFunc { return fromRequest(httplimit.ClientIP(opts...)) }

// AddressOption changes how ClientIP finds an address, and how much of it counts.
type AddressOption = httplimit.AddressOption

// TrustedProxies names the proxies, by address or prefix, whose header is trusted to name the client:
//
//	echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8", "fd00::/8"))
//
// X-Forwarded-For is read from the right while it names trusted proxies. The first address that is not one of them is
// the client. What is further to the left, which the client may have written, is ignored. If the header is missing or
// cannot be read, the nearest proxy counts as the client, and the limiter logs a warning once.
//
// Name a proxy only if it adds the address of its peer, or replaces the header. Name no network that clients are in.
// "unix" stands for the peer on a Unix socket. An empty list trusts no proxy, as ClientIP does without
// TrustedProxies.
//
// TrustedProxies panics if a proxy is neither an address nor a prefix, or if a prefix is so wide that clients could
// choose their addresses.
func TrustedProxies(proxies ...string) AddressOption { return httplimit.TrustedProxies(proxies...) }

// ProxyHeader names the header in which trusted proxies send the client's address, in place of X-Forwarded-For. It
// is Forwarded (RFC 7239), which is read as X-Forwarded-For is, or a header such as X-Real-IP or CF-Connecting-IP,
// which is trusted if it is present once and contains one address. Such a header does not show which proxy has
// written it, so name it only if the trusted proxies replace what a client sends in it, and if clients cannot bypass
// the proxies.
//
// ClientIP panics if it has a ProxyHeader but no TrustedProxies.
func ProxyHeader(name string) AddressOption { return httplimit.ProxyHeader(name) }

// IPv6Prefix sets how many bits of an IPv6 address identify a client, from 32 to 128. The default is 64. Providers
// assign a home a /64 to a /56, and a company up to a /48, and clients can choose any address in it. IPv6Prefix
// panics if bits is another number.
func IPv6Prefix(bits int) AddressOption { return httplimit.IPv6Prefix(bits) }

// FrameworkClientIP counts by what echo.Context.RealIP returns, and by /64 for IPv6. It is for services that have
// configured the trusted proxies of Echo.
//
// Use it with care. Without an Echo.IPExtractor, Echo believes X-Forwarded-For from any client, and a client that
// can choose its address is never limited. Requests are therefore refused with 500 until each Echo has an extractor
// that does not believe X-Forwarded-For or X-Real-IP from all addresses, over IPv4 or IPv6. Echo's own extractors
// trust loopback, link-local and private addresses unless they are told not to. ClientIP with TrustedProxies has
// none of these problems.
func FrameworkClientIP() KeyFunc {
	return httplimit.FrameworkClientIP(echo.Context.Request, func(c echo.Context, r *http.Request) string {
		original := c.Request()
		c.SetRequest(r)
		defer c.SetRequest(original)
		return c.RealIP()
	}, "set Echo.IPExtractor to one that trusts your proxies alone, or to echo.ExtractIPDirect() if there are none")
}

// Header counts by the value of a header field, such as an API key.
//
// If requests are authenticated, count by the user that your authentication has found instead, with a KeyFunc of your
// own. A client can write any value, and is a new client with each. Even a valid credential is not one client: a user
// may hold several, and a verifier may accept one in several spellings, as many decoders of base64 ignore the last bits
// of a token. If you must count before authentication, limit by ClientIP as well.
//
// The value is kept as a hash, like all values that clients send, so that no secret reaches Redis, logs or errors. A
// request without the field is refused with 401. A request that has the field twice, longer than 8 KiB, or with a
// control character, which decoders skip, is refused with 400. Whitespace around the value, which services trim, does
// not count. Header panics if name is not the name of a field.
func Header(name string, opts ...HashOption) KeyFunc {
	return fromRequest(httplimit.Header(name, opts...))
}

// HashOption changes how a value that a client sends is hashed. The default is SHA-256.
type HashOption = httplimit.HashOption

// HashKey makes the hash an HMAC-SHA-256 under a secret of the service, of at least 16 bytes and the same in all
// instances. Without it, a reader of Redis can try out which values hash to a key, which succeeds if values are short
// or few. HashKey panics if the secret is shorter.
func HashKey(secret []byte) HashOption { return httplimit.HashKey(secret) }

// BearerToken counts by the token in "Authorization: Bearer ...", like Header. A request without a token is refused
// with 401 and a challenge. A token is a credential, not a user: see Header.
func BearerToken(opts ...HashOption) KeyFunc { return fromRequest(httplimit.BearerToken(opts...)) }

// Cookie counts by the value of a cookie, like Header. If there are several cookies of that name, the first one
// counts, which is also what Context.Cookie returns. Its %-escapes are decoded if possible, so a value is one client
// however it is escaped. Cookie panics if name is not the name of a cookie.
func Cookie(name string, opts ...HashOption) KeyFunc {
	return fromRequest(httplimit.Cookie(name, opts...))
}

// Query counts by a parameter of the query, like Header. If there are several, the first one counts. Query panics if
// name is empty.
func Query(name string, opts ...HashOption) KeyFunc {
	return httplimit.Query(name, func(c echo.Context) string { return c.QueryParam(name) }, opts)
}

// PathParam counts by a parameter of the route, such as "id" of "/users/:id". A parameter is one client however it
// is escaped, while Echo.Context.Param returns it as it was written. Any client can use up the budget of what a path
// names: join PathParam with ClientIP if that matters. On a route without the parameter, requests are refused with
// 500. PathParam panics if name is empty, or is written as in a route, such as ":id".
func PathParam(name string, opts ...HashOption) KeyFunc {
	return httplimit.PathParam(name, func(c echo.Context) (string, bool) {
		value := c.Param(name)
		if c.Request().URL.RawPath != "" { // Echo then takes parameters from it, still escaped
			value, _ = url.PathUnescape(value) // an error leaves nothing, which is refused
		}
		return value, slices.Contains(c.ParamNames(), name)
	}, opts)
}

// Route counts all clients of a route together, by its template, such as "/users/:id". Requests that match no route are
// one client, because otherwise each path that a client makes up would be a new one. In Echo.Pre there is no route yet.
func Route() KeyFunc { return httplimit.Route(template) }

// Global counts all requests together.
func Global() KeyFunc { return httplimit.Global[echo.Context] }

// Join counts by all of keys together, such as a route and an address: requests that differ in one key are different
// clients. If a request lacks a key, it is refused as by that key alone. Join panics if there are no keys or one is
// nil.
func Join(keys ...KeyFunc) KeyFunc { return httplimit.Join(keys) }

// FirstOf counts by the first of keys that a request has, such as the user, or else the address. It skips a key only
// if it is missing: if the key function returns an empty string, or if the credential of one of the functions above
// is missing. A request with a malformed credential is refused, and so is one whose key function returns an error.
// Otherwise a client could choose what it is counted by.
//
// FirstOf keeps clients apart: a client by one key is never the same as one by another key, nor the same as a client
// by that key outside of FirstOf. FirstOf panics if there are no keys or one is nil.
func FirstOf(keys ...KeyFunc) KeyFunc { return httplimit.FirstOf(keys) }

// template returns the template of the route that a request matched, or "" if it matched none. If the path has routes,
// but not for the method, Echo's Path returns the template of one of them, and Echo sets what it sends in Allow.
func template(c echo.Context) string {
	if c.Get(echo.ContextKeyHeaderAllow) != nil {
		return ""
	}
	return c.Path()
}

// fromRequest returns a KeyFunc that calls key with the request of the context.
func fromRequest(key func(*http.Request) (string, error)) KeyFunc {
	return func(c echo.Context) (string, error) { return key(c.Request()) }
}
