package ginlimit

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// KeyFunc says who a request is from. Different strings are different clients. An empty string says that the request does
// not tell, and an error that it could not be found out. Either way the request is refused, with 401 unless the keys below
// say otherwise: it neither passes uncounted nor shares a budget with others like it. The client is not shown the text of
// an error of your own; it goes to the logger of the limiter.
//
// Begin a key of your own with what it is, as in "user:" + id, so that no id can pass for a key of another kind. Keys are
// part of the names of logs, so hash what is secret. It is called for many requests at once.
type KeyFunc func(*gin.Context) (string, error)

// ClientIP counts by the address of the client, IPv6 by /64. By default that is the socket's peer, and no header is
// trusted, unlike gin.Context.ClientIP, which by default believes X-Forwarded-For from anyone. Behind a proxy every request
// comes from the proxy's address, so name the proxies with TrustedProxies there.
//
// IPv4 addresses count as such however they are written: mapped into IPv6, or under NAT64's prefix 64:ff9b::/96. A
// 6to4 or Teredo address (2002::/16, 2001::/32) counts by the IPv4 address in it, whose host may choose the rest. Under
// 64:ff9b:1::/48, which RFC 8215 reserves for translators of your own, each address is a client: it stands for one
// IPv4 host, but only you know which bits of it are the IPv4 address, so that host counts apart when it comes without
// the translator.
//
// A connection without an address is refused with 500, as is a Unix socket's unless TrustedProxies names it.
func ClientIP(opts ...AddressOption) KeyFunc { return of(httplimit.ClientIP(opts...)) }

// AddressOption changes how ClientIP finds an address, and how much of it counts.
type AddressOption = httplimit.AddressOption

// TrustedProxies names the proxies, by address or prefix, that are believed in what they say of those who come through
// them:
//
//	ginlimit.ClientIP(ginlimit.TrustedProxies("10.0.0.0/8", "fd00::/8"))
//
// X-Forwarded-For is read from the right for as long as it names trusted proxies, and the first that is not one of
// them is the client. What is to the left of it, which the client may have written, is not looked at. Where the
// header is missing or cannot be read, the nearest proxy counts as the client, and the limiter's log says so, once.
// Name a proxy only if it adds the address of its peer, or replaces the header, and no network in which clients are.
// "unix" stands for whatever is at the other end of a Unix socket. An empty list trusts no proxy, as ClientIP does
// without TrustedProxies.
//
// It panics if a proxy is no address and no prefix, or a prefix is so wide that clients could choose their addresses.
func TrustedProxies(proxies ...string) AddressOption { return httplimit.TrustedProxies(proxies...) }

// ProxyHeader names the header in which the trusted proxies tell the client's address, in place of X-Forwarded-For:
// Forwarded (RFC 7239), which is read as X-Forwarded-For is, or one such as X-Real-IP or CF-Connecting-IP, which is
// believed if it is there once and holds one address. Such a header says nothing of who wrote it: name it only if the
// trusted proxies replace what a client sends in it, and cannot be gone around.
//
// ClientIP panics if there are no TrustedProxies to believe it from.
func ProxyHeader(name string) AddressOption { return httplimit.ProxyHeader(name) }

// IPv6Prefix sets how many bits of an IPv6 address make out one client, from 32 to 128, in place of 64. Providers give a
// home a /64 to a /56, and a company up to a /48, within which it may choose. It panics if bits is another number.
func IPv6Prefix(bits int) AddressOption { return httplimit.IPv6Prefix(bits) }

// FrameworkClientIP counts by what gin.Context.ClientIP returns, IPv6 by /64: for services that have told Gin whom to
// trust.
//
// Be careful with it. Until it is told otherwise, Gin believes X-Forwarded-For from anyone, over IPv4 and IPv6, and a
// client that can choose its address is never limited. Requests are therefore refused with 500 until
// Engine.SetTrustedProxies was called, on each engine, with less than all addresses. Engine.TrustedPlatform, and
// RemoteIPHeaders of your own, are believed from anyone too, which is not noticed here. ClientIP with TrustedProxies
// has no such traps.
func FrameworkClientIP() KeyFunc {
	return httplimit.FrameworkClientIP(request, func(c *gin.Context, r *http.Request) string {
		own := c.Request
		c.Request = r
		defer func() { c.Request = own }()
		return c.ClientIP()
	}, "call Engine.SetTrustedProxies with your proxies alone, or with nil if there are none")
}

// Header counts by the value of a header field, such as an API key.
//
// Where requests are authenticated, count by the user that your authentication found instead, with a KeyFunc of your
// own. A client may write any value, and is a new client with each. Even a valid credential is not one client: a user
// may hold several, and a verifier may accept one in several spellings, as many decoders of base64 ignore the last
// bits of a token. If you must count before authentication, limit by ClientIP as well.
//
// The value is kept as a hash, like all values that clients send, so that no secret among them reaches Redis, logs or
// errors. A request without it is refused with 401. One that has it twice, longer than 8 KiB, or with a control
// character, which decoders skip, is refused with 400. Whitespace around it, which services trim, does not count. Header
// panics if name is no field's name.
func Header(name string, opts ...HashOption) KeyFunc { return of(httplimit.Header(name, opts...)) }

// HashOption changes how the value that a client sends is hashed. By default it is SHA-256.
type HashOption = httplimit.HashOption

// HashKey makes the hash an HMAC-SHA-256 under a secret of the service's, at least 16 bytes and the same in all instances.
// Without it, who can read Redis can try out what hashes to a key, which succeeds where values are short or few. It panics
// if the secret is shorter.
func HashKey(secret []byte) HashOption { return httplimit.HashKey(secret) }

// BearerToken counts by the token in "Authorization: Bearer ...", as Header does by a value. A request without one is
// refused with 401 and a challenge. A token is a credential and not a user: read what Header says about that.
func BearerToken(opts ...HashOption) KeyFunc { return of(httplimit.BearerToken(opts...)) }

// Cookie counts by the value of a cookie, as Header does by that of a field. Of several, the first counts, which is the one
// that Context.Cookie returns. %-escapes in it are decoded where they can be, so one value is one client however it is
// escaped. It panics if name is no cookie's name.
func Cookie(name string, opts ...HashOption) KeyFunc { return of(httplimit.Cookie(name, opts...)) }

// Query counts by a parameter of the query, as Header does by a field. Of several, the first counts. It panics if name is
// empty.
func Query(name string, opts ...HashOption) KeyFunc {
	return httplimit.Query(name, func(c *gin.Context) string { return c.Query(name) }, opts)
}

// PathParam counts by a parameter of the route, such as "id" of "/users/:id". Encoded in whatever way, a parameter is one
// client, unless Engine.UnescapePathValues was turned off. Anybody can spend the budget of what a path names: join it with
// ClientIP where that matters. On a route without the parameter, requests are refused with 500. It panics if name is not
// the name alone.
func PathParam(name string, opts ...HashOption) KeyFunc {
	return httplimit.PathParam(name, func(c *gin.Context) (string, bool) { return c.Params.Get(name) }, opts)
}

// Route counts all clients of a route together, by its template, as "/users/:id". Requests that match no route are together
// one client: their paths would be new clients, as many as anybody cares to write.
func Route() KeyFunc { return httplimit.Route((*gin.Context).FullPath) }

// Global counts all requests together.
func Global() KeyFunc { return httplimit.Global[*gin.Context] }

// Join counts by all of keys together, such as a route and an address: who differs in one of them is another client. If a
// request lacks one it is refused, as that key says. It panics if there are no keys or one is nil.
func Join(keys ...KeyFunc) KeyFunc { return httplimit.Join(keys) }

// FirstOf counts by the first of keys that a request has, such as a user and otherwise the address. It passes over a
// key only if it is missing: if the key function returns an empty string, or the credential of one of the functions
// above is not there. A request with a malformed credential is refused, and so is one whose key function returns an
// error. Otherwise a client could choose what it is counted by.
//
// Its clients are its own: none of one key is the same as one of another, or as one that the same key counts outside of
// FirstOf. It panics if there are no keys or one is nil.
func FirstOf(keys ...KeyFunc) KeyFunc { return httplimit.FirstOf(keys) }

func request(c *gin.Context) *http.Request { return c.Request }

func of(key func(*http.Request) (string, error)) KeyFunc {
	return func(c *gin.Context) (string, error) { return key(c.Request) }
}
