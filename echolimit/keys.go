package echolimit

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/internal/httplimit"
)

// KeyFunc says who a request is from. Different strings are different clients. An empty string says that the request does
// not tell, and an error that it could not be found out. Either way it is refused with 401: it neither passes uncounted nor
// shares a budget with others like it. The client is not shown the text of an error; it goes to Echo's logger.
//
// Begin a key of your own with what it is, as in "user:" + id, so that no id can pass for a key of another kind. Keys are
// part of the names of logs, so hash what is secret.
type KeyFunc func(echo.Context) (string, error)

// ClientIP counts by the address of the client, IPv6 by /64. By default that is the socket's peer, and no header is trusted,
// unlike echo.Context.RealIP, which by default believes X-Forwarded-For from anyone. Behind a proxy every request comes
// from the proxy's address, so name the proxies with TrustedProxies there.
//
// IPv4 addresses count as such however they are written: mapped into IPv6, or under NAT64's prefix 64:ff9b::/96. A
// connection without an address is refused with 500, as is a Unix socket's unless TrustedProxies names it.
func ClientIP(opts ...AddressOption) KeyFunc { return of(httplimit.ClientIP(opts...)) }

// AddressOption changes how ClientIP finds an address, and how much of it counts.
type AddressOption = httplimit.AddressOption

// TrustedProxies names the proxies, by address or prefix, that are believed in what they say of those who come through them:
//
//	echolimit.ClientIP(echolimit.TrustedProxies("10.0.0.0/8", "fd00::/8"))
//
// X-Forwarded-For is read from the right for as long as it names trusted proxies, and the first that is not one of them is
// the client. What is to the left of it, which the client may have written, is not looked at. Where the header is missing or
// cannot be read, the nearest proxy counts as the client. Name a proxy only if it adds the address of its peer, and no
// network in which clients are. "unix" stands for whatever is at the other end of a Unix socket.
//
// It panics if a proxy is no address and no prefix, or a prefix is so wide that clients could choose their addresses.
func TrustedProxies(proxies ...string) AddressOption { return httplimit.TrustedProxies(proxies...) }

// ProxyHeader names the header in which the trusted proxies tell the client's address, in place of X-Forwarded-For: Forwarded
// (RFC 7239), which is read as X-Forwarded-For is, or one such as X-Real-IP or CF-Connecting-IP, which is believed if it is
// there once and holds one address. Such a header says nothing of who wrote it: name it only if the trusted proxies replace
// what a client sends in it, and cannot be gone around.
//
// ClientIP panics if there are no TrustedProxies to believe it from.
func ProxyHeader(name string) AddressOption { return httplimit.ProxyHeader(name) }

// IPv6Prefix sets how many bits of an IPv6 address make out one client, from 32 to 128, in place of 64. Providers give a
// home a /64 to a /56, and a company up to a /48, within which it may choose.
func IPv6Prefix(bits int) AddressOption { return httplimit.IPv6Prefix(bits) }

// FrameworkClientIP counts by what echo.Context.RealIP returns, IPv6 by /64: for services that have told Echo whom to trust.
//
// Be careful with it. Without an Echo.IPExtractor, Echo believes X-Forwarded-For from anyone, and whoever can choose an
// address is never limited, so requests are refused with 500 until there is one. Echo's own extractors trust loopback,
// link-local and private addresses unless they are told not to. ClientIP with TrustedProxies has no such traps.
func FrameworkClientIP() KeyFunc {
	return httplimit.FrameworkClientIP(func(c echo.Context) (string, error) {
		if c.Echo().IPExtractor == nil {
			return "", httplimit.Mistake("FrameworkClientIP: Echo believes X-Forwarded-For from anyone: set Echo.IPExtractor, to echo.ExtractIPDirect() if there is no proxy")
		}
		return c.RealIP(), nil
	})
}

// Header counts by the value of a header field, such as an API key. Only a hash of the value leaves the process. A request
// without it is refused with 401. A client may write any value, so have it authenticated before, or limit by ClientIP as
// well: who invents a new value for each request is a new client each time. It panics if name is no field's name.
func Header(name string) KeyFunc { return of(httplimit.Header(name)) }

// FirstOf counts by the first of keys that a request has, such as a user and otherwise the address. Its clients are its own:
// none of one key is the same as one of another, or as one that the same key counts outside of FirstOf. It panics if there
// are no keys or one is nil.
func FirstOf(keys ...KeyFunc) KeyFunc { return httplimit.FirstOf(keys) }

func of(key func(*http.Request) (string, error)) KeyFunc {
	return func(c echo.Context) (string, error) { return key(c.Request()) }
}
