package httplimit

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// AddressOption changes how ClientIP finds an address, and how much of it counts.
type AddressOption func(*addresses)

// addresses finds the client of a request by its address.
type addresses struct {
	named   bool           // TrustedProxies was given, perhaps with an empty list
	proxies []netip.Prefix // normal, so that they hold what normal returns
	unix    bool           // what is at the other end of a Unix socket is a proxy too
	header  string         // what the proxies tell addresses in, as net/http spells it
	bits    int            // of an IPv6 address that make out one client
}

const (
	xForwardedFor = "X-Forwarded-For"
	forwarded     = "Forwarded"
)

// ClientIP returns a key function for the address of the client: of the socket's peer or, where that is one of the trusted
// proxies, what the proxies say. An address is made normal before it is looked at, and IPv6 counts by /64, which is what
// one client is given to choose from.
//
// A connection that has no address, as on a Unix socket, is a mistake of the service.
func ClientIP(opts ...AddressOption) func(*http.Request) (string, error) {
	a := &addresses{bits: 64}
	for _, opt := range opts {
		opt(a)
	}
	if a.header != "" && !a.named {
		panic(fmt.Sprintf("exactlimit: ProxyHeader(%q) needs TrustedProxies; otherwise any client can set it", a.header))
	}
	if a.header == "" {
		a.header = xForwardedFor
	}
	return func(r *http.Request) (string, error) {
		addr, err := a.find(r)
		if err != nil {
			return "", err
		}
		return a.key(addr), nil
	}
}

// TrustedProxies names the proxies whose word is taken for the addresses of those that come through them: addresses,
// prefixes, and "unix" for whatever is at the other end of a Unix socket. An empty list trusts no proxy.
func TrustedProxies(proxies ...string) AddressOption {
	var prefixes []netip.Prefix
	unix := false
	for _, proxy := range proxies {
		if proxy == "unix" {
			unix = true
			continue
		}
		prefixes = append(prefixes, parseProxy(proxy))
	}
	return func(a *addresses) {
		a.named = true
		a.proxies = append(a.proxies, prefixes...)
		a.unix = a.unix || unix
	}
}

// parseProxy panics where a prefix would trust other addresses than it seems to.
func parseProxy(proxy string) netip.Prefix {
	prefix, err := netip.ParsePrefix(proxy)
	if addr, notAddr := netip.ParseAddr(proxy); notAddr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q is no address and no prefix: write one such as \"10.0.0.1\" or \"10.0.0.0/8\"", proxy))
	}
	if masked := prefix.Masked(); masked != prefix {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q has bits behind its prefix: write %q or %q", proxy, masked, prefix.Addr()))
	}
	if addr := normal(prefix.Addr()); addr != prefix.Addr() {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q holds IPv4 addresses, which are compared as such:"+
			" write %s/%d", proxy, addr, max(0, prefix.Bits()-96)))
	}
	// The widest that networks of proxies come in are 10.0.0.0/8 and fc00::/7.
	if widest := map[int]int{32: 8, 128: 7}[prefix.Addr().BitLen()]; prefix.Bits() < widest {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: with %q any client could choose its address:"+
			" name only the proxies", proxy))
	}
	return prefix
}

// ProxyHeader names the header that the trusted proxies tell addresses in: Forwarded, or one with a single address in it.
func ProxyHeader(name string) AddressOption {
	checkFieldName(name)
	name = http.CanonicalHeaderKey(name)
	return func(a *addresses) { a.header = name }
}

// IPv6Prefix sets how many bits of an IPv6 address make out one client.
func IPv6Prefix(bits int) AddressOption {
	if bits < 32 || bits > 128 {
		panic(fmt.Sprintf("exactlimit: IPv6Prefix of %d bits: write one from 32, which is a whole provider, to 128, which is one address", bits))
	}
	return func(a *addresses) { a.bits = bits }
}

// FrameworkClientIP returns a key function for the address that the framework finds, made normal as ClientIP's are. The
// function find returns what the framework finds in a request that takes the place of c's own.
//
// If the framework believes strangers, a client can choose its address, so requests are refused, and advice says what
// to write. Each request asks anew: one key function may serve several engines, and Gin's contexts do not tell
// theirs.
func FrameworkClientIP[C any](
	own func(C) *http.Request, find func(C, *http.Request) string, advice string,
) func(C) (string, error) {
	const claimed = "198.51.100.1"
	believed := mistakef("FrameworkClientIP: headers are believed from anyone, so clients can choose their addresses: %s", advice)
	// Strangers come from addresses that no proxy has: a reserved one (RFC 1112, section 4), and an ORCHID (RFC 7343).
	var strangers []*http.Request
	for _, remote := range []string{"240.0.0.1:1", "[2001:20::1]:1"} {
		strangers = append(strangers, &http.Request{
			Method:     http.MethodGet,
			URL:        &url.URL{Path: "/"},
			Header:     http.Header{"X-Forwarded-For": {claimed}, "X-Real-Ip": {claimed}},
			RemoteAddr: remote,
		})
	}
	a := addresses{bits: 64}
	return func(c C) (string, error) {
		for _, stranger := range strangers {
			if find(c, stranger) == claimed {
				return "", believed
			}
		}
		found := find(c, own(c))
		addr, ok := parseHop(found)
		if !ok {
			return "", mistakef("FrameworkClientIP: the framework says %.64q, which is no address: configure it, or use ClientIP", found)
		}
		return a.key(addr), nil
	}
}

var (
	// nat64 is the prefix under which IPv4 addresses are seen from IPv6 (RFC 6052, section 2.1).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	// localNAT64 is the prefix for translators of an operator's own (RFC 8215).
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	// sixToFour is the prefix that is followed by the IPv4 address of the site (RFC 3056, section 2).
	sixToFour = netip.MustParsePrefix("2002::/16")
	// teredo is the prefix of addresses that end in the inverted IPv4 address of the host (RFC 4380, section 4).
	teredo = netip.MustParsePrefix("2001::/32")
)

// key names the client at a normal address.
//
// A host with an IPv4 address has all of a 6to4 /48 to choose from, and with Teredo as many /64s as there are servers,
// each of which it shares with the server's other clients. So it counts by the IPv4 address. That is not the normal
// form: a proxy is not to be trusted because of an address that was made of its own.
//
// Under the prefix of RFC 8215 each address stands for one IPv4 host, and only the operator knows which bits of it
// are the IPv4 address. There each address is a client: by /64, all hosts behind a translator could be one.
func (a *addresses) key(addr netip.Addr) string {
	bits := a.bits
	switch bytes := addr.As16(); {
	case sixToFour.Contains(addr):
		addr = netip.AddrFrom4([4]byte(bytes[2:]))
	case teredo.Contains(addr):
		addr = netip.AddrFrom4([4]byte{^bytes[12], ^bytes[13], ^bytes[14], ^bytes[15]})
	case localNAT64.Contains(addr):
		bits = addr.BitLen()
	}
	var buffer [64]byte
	b := append(buffer[:0], "ip:"...)
	if addr.Is4() {
		return string(addr.AppendTo(b))
	}
	return string(netip.PrefixFrom(addr, bits).Masked().AppendTo(b))
}

// find returns the address of the client.
func (a *addresses) find(r *http.Request) (netip.Addr, error) {
	nearest, unix := peer(r)
	trusted := a.trust(nearest)
	if unix {
		if !a.unix {
			return nearest, mistakef("ClientIP on a Unix socket, whose peers have no address: where that is a proxy, write TrustedProxies(\"unix\")")
		}
		trusted = true
	}
	if !trusted {
		if !nearest.IsValid() {
			return nearest, mistakef("ClientIP: the connection is from %q, which is no address: count by something else", r.RemoteAddr)
		}
		return nearest, nil
	}
	var named netip.Addr
	switch fields := r.Header[a.header]; a.header {
	case xForwardedFor:
		named = a.walk(fields, parseHop)
	case forwarded:
		named = a.walk(fields, parseForwarded)
	default: // a single address, so that two of them say nothing
		if len(fields) == 1 {
			if addr, ok := parseHop(fields[0]); ok {
				named = addr
			}
		}
	}
	switch {
	case named.IsValid():
		return named, nil
	case unix:
		return named, mistakef("ClientIP: the proxy on the Unix socket names no client:"+
			" let it set %s, or name the header that it sets with ProxyHeader", a.header)
	}
	r.Response = unnamed
	return nearest, nil
}

// unnamed marks a request whose trusted proxy names no client, for the gate, which has a log. The gate and a key
// function see nothing but the request in common, whatever functions are around the latter, and in a server nothing else
// sets Response.
var unnamed = new(http.Response)

// walk follows the hops that list fields tell of, from the nearest on, for as long as they are trusted. It returns the
// first that is not or, where the list ends or cannot be read before that, the last that was: what is further away may have
// been written by anybody. If there is none, it returns the zero Addr.
func (a *addresses) walk(fields []string, parse func(string) (netip.Addr, bool)) (nearest netip.Addr) {
	for i := len(fields) - 1; i >= 0; i-- {
		for rest, more := fields[i], true; more; {
			var hop string
			rest, hop, more = cutLast(rest, ',')
			addr, ok := parse(hop)
			if !ok {
				return nearest
			}
			if nearest = addr; !a.trust(addr) {
				return addr
			}
		}
	}
	return nearest
}

func (a *addresses) trust(addr netip.Addr) bool {
	for _, proxy := range a.proxies {
		if proxy.Contains(addr) {
			return true
		}
	}
	return false
}

// peer returns the address at the other end of the connection; the zero Addr where it has none. That of a Unix socket is a
// file name, which its owner chooses, perhaps so that it reads like an address.
func peer(r *http.Request) (addr netip.Addr, unix bool) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && strings.HasPrefix(local.Network(), "unix") {
		return netip.Addr{}, true
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	return normal(remote.Addr()), false
}

// normal returns the one form of an address: IPv4 where it is IPv4 written as IPv6, and without a zone. Otherwise all of
// IPv4 would be one /64, and every zone a client of its own.
func normal(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		bytes := addr.As16()
		return netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return addr
}
