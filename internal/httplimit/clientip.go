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
type AddressOption func(*addressFinder)

// addressFinder finds the address of a request's client.
type addressFinder struct {
	proxies      []netip.Prefix // normalized, so that they contain what normalize returns
	proxiesGiven bool           // TrustedProxies was given, perhaps with an empty list
	trustUnix    bool           // the peer on a Unix socket is a trusted proxy
	header       string         // in which the proxies send addresses, in canonical form
	ipv6Bits     int            // of an IPv6 address that identify a client
}

const (
	xForwardedFor = "X-Forwarded-For"
	forwarded     = "Forwarded"
)

// ClientIP returns a key function for the address of the client: the peer of the socket or, if that is a trusted proxy,
// the address that the proxies send. Addresses are normalized before they are compared. IPv6 counts by /64, because a
// client can usually choose any address in its /64.
//
// A connection without an address, such as a Unix socket's, is a configuration error.
func ClientIP(opts ...AddressOption) func(*http.Request) (string, error) {
	f := &addressFinder{ipv6Bits: 64}
	for _, opt := range opts {
		opt(f)
	}
	if f.header != "" && !f.proxiesGiven {
		panic(fmt.Sprintf("exactlimit: ProxyHeader(%q) needs TrustedProxies; otherwise any client can set it",
			f.header))
	}
	if f.header == "" {
		f.header = xForwardedFor
	}
	return func(r *http.Request) (string, error) {
		addr, err := f.find(r)
		if err != nil {
			return "", err
		}
		return f.key(addr), nil
	}
}

// TrustedProxies names the proxies whose header is trusted: addresses, prefixes, and "unix" for the peer on a Unix
// socket. An empty list trusts no proxy.
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
	return func(f *addressFinder) {
		f.proxiesGiven = true
		f.proxies = append(f.proxies, prefixes...)
		f.trustUnix = f.trustUnix || unix
	}
}

// parseProxy parses an address or a prefix. It panics if the prefix would trust other addresses than it seems to.
func parseProxy(proxy string) netip.Prefix {
	prefix, err := netip.ParsePrefix(proxy)
	if addr, notAddr := netip.ParseAddr(proxy); notAddr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q is neither an address nor a prefix:"+
			" write one such as \"10.0.0.1\" or \"10.0.0.0/8\"", proxy))
	}
	if masked := prefix.Masked(); masked != prefix {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q has bits set behind its prefix: write %q or %q",
			proxy, masked, prefix.Addr()))
	}
	if addr := normalize(prefix.Addr()); addr != prefix.Addr() {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: %q contains IPv4 addresses, which are compared as IPv4:"+
			" write %s/%d", proxy, addr, max(0, prefix.Bits()-96)))
	}
	// The widest prefixes that networks of proxies have are 10.0.0.0/8 and fc00::/7.
	if widest := map[int]int{32: 8, 128: 7}[prefix.Addr().BitLen()]; prefix.Bits() < widest {
		panic(fmt.Sprintf("exactlimit: TrustedProxies: with %q any client could choose its address:"+
			" name only the proxies", proxy))
	}
	return prefix
}

// ProxyHeader names the header in which the trusted proxies send addresses: Forwarded, or one with a single address.
func ProxyHeader(name string) AddressOption {
	checkFieldName(name)
	name = http.CanonicalHeaderKey(name)
	return func(f *addressFinder) { f.header = name }
}

// IPv6Prefix sets how many bits of an IPv6 address identify a client.
func IPv6Prefix(bits int) AddressOption {
	if bits < 32 || bits > 128 {
		panic(fmt.Sprintf("exactlimit: IPv6Prefix(%d): write a number from 32, which is a whole provider,"+
			" to 128, which is one address", bits))
	}
	return func(f *addressFinder) { f.ipv6Bits = bits }
}

// FrameworkClientIP returns a key function for the address that the framework finds, normalized as by ClientIP.
// request returns the request of c. clientIP returns the address that the framework finds when r takes the place of
// that request.
//
// If the framework trusts headers from any peer, clients can choose their addresses. Such requests are refused with an
// error that ends in advice, which says what to write instead. Each request checks this again, because one key function
// may serve several engines, and Gin's contexts do not show their engine.
func FrameworkClientIP[C any](
	request func(C) *http.Request, clientIP func(c C, r *http.Request) string, advice string,
) func(C) (string, error) {
	const spoofed = "198.51.100.1"
	errSpoofable := configErrorf("FrameworkClientIP: the framework trusts headers from any client,"+
		" so clients can choose their addresses: %s", advice)
	// The probes come from addresses that no proxy has: a reserved one (RFC 1112, section 4), and an ORCHID (RFC 7343).
	var probes []*http.Request
	for _, remote := range []string{"240.0.0.1:1", "[2001:20::1]:1"} {
		probes = append(probes, &http.Request{
			Method:     http.MethodGet,
			URL:        &url.URL{Path: "/"},
			Header:     http.Header{"X-Forwarded-For": {spoofed}, "X-Real-Ip": {spoofed}},
			RemoteAddr: remote,
		})
	}
	f := addressFinder{ipv6Bits: 64}
	return func(c C) (string, error) {
		for _, probe := range probes {
			if clientIP(c, probe) == spoofed {
				return "", errSpoofable
			}
		}
		found := clientIP(c, request(c))
		addr, ok := parseHop(found)
		if !ok {
			return "", configErrorf("FrameworkClientIP: the framework returns %.64q, which is not an address:"+
				" configure the framework, or use ClientIP", found)
		}
		return f.key(addr), nil
	}
}

var (
	// nat64 is the prefix that represents IPv4 addresses in IPv6 (RFC 6052, section 2.1).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	// localNAT64 is the prefix for an operator's own translators (RFC 8215).
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	// sixToFour is the prefix that is followed by the IPv4 address of the site (RFC 3056, section 2).
	sixToFour = netip.MustParsePrefix("2002::/16")
	// teredo is the prefix of addresses that end in the inverted IPv4 address of the host (RFC 4380, section 4).
	teredo = netip.MustParsePrefix("2001::/32")
)

// key returns the key of the client at a normalized address.
//
// A host with an IPv4 address can choose any address in its 6to4 /48. With Teredo, it has as many /64s as there are
// servers, and shares each of them with the server's other clients. So both count by the IPv4 address. Normalize does
// not do this, because a proxy must not be trusted for an address that any host can make from its own.
//
// Under the prefix of RFC 8215 each address stands for one IPv4 host, and only the operator knows which bits of it
// are the IPv4 address. There each address is a client: by /64, all hosts behind a translator could be one.
func (f *addressFinder) key(addr netip.Addr) string {
	bits := f.ipv6Bits
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
func (f *addressFinder) find(r *http.Request) (netip.Addr, error) {
	nearest, unix := peer(r)
	trusted := f.trusts(nearest)
	if unix {
		if !f.trustUnix {
			return nearest, configErrorf("ClientIP on a Unix socket, whose peers have no address:" +
				" if the peer is a proxy, write TrustedProxies(\"unix\")")
		}
		trusted = true
	}
	if !trusted {
		if !nearest.IsValid() {
			return nearest, configErrorf("ClientIP: the connection is from %q, which is not an address:"+
				" use another key function", r.RemoteAddr)
		}
		return nearest, nil
	}
	var client netip.Addr
	switch fields := r.Header[f.header]; f.header {
	case xForwardedFor:
		client = f.firstUntrusted(fields, parseHop)
	case forwarded:
		client = f.firstUntrusted(fields, parseForwarded)
	default: // a single address; two fields are as good as none
		if len(fields) == 1 {
			if addr, ok := parseHop(fields[0]); ok {
				client = addr
			}
		}
	}
	switch {
	case client.IsValid():
		return client, nil
	case unix:
		return client, configErrorf("ClientIP: the proxy on the Unix socket sends no address of the client:"+
			" let it set %s, or name the header that it sets with ProxyHeader", f.header)
	}
	r.Response = noClientAddress
	return nearest, nil
}

// noClientAddress marks a request whose trusted proxy sends no address of the client, so that the gate can log it. The
// gate and a key function share nothing but the request, because any number of functions may wrap the key function. In
// a server, nothing else sets Response.
var noClientAddress = new(http.Response)

// firstUntrusted reads the hops in list fields, beginning with the nearest, and returns the first that is not a trusted
// proxy. If the list ends, or continues with something that cannot be parsed, it returns the last trusted proxy,
// because anything further away may have been written by the client. If there is no hop, it returns the zero Addr.
func (f *addressFinder) firstUntrusted(
	fields []string, parse func(string) (netip.Addr, bool),
) (hop netip.Addr) {
	for i := len(fields) - 1; i >= 0; i-- {
		for rest, more := fields[i], true; more; {
			var element string
			rest, element, more = cutLast(rest, ',')
			addr, ok := parse(element)
			if !ok {
				return hop
			}
			if hop = addr; !f.trusts(hop) {
				return hop
			}
		}
	}
	return hop
}

// trusts reports whether addr is a trusted proxy's.
func (f *addressFinder) trusts(addr netip.Addr) bool {
	for _, proxy := range f.proxies {
		if proxy.Contains(addr) {
			return true
		}
	}
	return false
}

// peer returns the address at the other end of the connection, or the zero Addr if it has none. The address of a Unix
// socket's peer is not read: it is a file name, and its owner can choose one that looks like an IP address.
func peer(r *http.Request) (addr netip.Addr, unix bool) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && strings.HasPrefix(local.Network(), "unix") {
		return netip.Addr{}, true
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	return normalize(remote.Addr()), false
}

// normalize returns the canonical form of an address: without a zone, and IPv4 if it is IPv4 represented as IPv6.
// Otherwise all of IPv4 would be in one /64, and each zone would be another client.
func normalize(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		bytes := addr.As16()
		return netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return addr
}
