package httplimit

import (
	"net/netip"
	"strings"
)

// What proxies write into headers, read from the right: what is there was written by the nearest proxy, whatever others,
// the client among them, have put to its left.

// cutLast cuts a list at its last separator that is not within a quoted string (RFC 9110, section 5.6.4), and says whether
// there was one. It reads from the right, so a quote that is left open to the left of it changes nothing.
func cutLast(list string, separator byte) (rest, last string, found bool) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"' && !escaped(list[:i]):
			quoted = !quoted
		case list[i] == separator && !quoted:
			return list[:i], list[i+1:], true
		}
	}
	return "", list, false
}

// escaped says whether what follows a text is escaped by it: it ends in an odd number of backslashes.
func escaped(before string) bool {
	return (len(before)-len(strings.TrimRight(before, `\`)))%2 == 1
}

// parseForwarded reads the parameter "for" of one element of Forwarded (RFC 7239, sections 4 and 6).
func parseForwarded(element string) (addr netip.Addr, ok bool) {
	for more := true; more; {
		var pair string
		element, pair, more = cutLast(element, ';')
		name, value, _ := strings.Cut(pair, "=")
		if !strings.EqualFold(trim(name), "for") {
			continue
		}
		if ok { // twice
			return netip.Addr{}, false
		}
		value = trim(value)
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1] // an address has nothing to escape
		}
		if addr, ok = parseHop(value); !ok { // "unknown", or a name that hides the address
			return netip.Addr{}, false
		}
	}
	return addr, ok
}

// parseHop reads an address as proxies write it: with a port or without, in brackets or not, among spaces.
func parseHop(hop string) (netip.Addr, bool) {
	host, port := trim(hop), ""
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, port, ok = strings.Cut(inner, "]"); !ok || !strings.Contains(host, ":") {
			return netip.Addr{}, false
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 && i == strings.LastIndexByte(host, ':') {
		host, port = host[:i], host[i:]
	}
	addr, err := netip.ParseAddr(host)
	return normal(addr), err == nil && (port == "" || isPort(port))
}

// isPort knows a colon with a number or, as in Forwarded, with a name that hides it (RFC 7239, section 6.2).
func isPort(port string) bool {
	number, ok := strings.CutPrefix(port, ":")
	if hidden, _ := strings.CutPrefix(number, "_"); hidden != number {
		return ok && hidden != "" && strings.Trim(hidden, tokenChars) == ""
	}
	return ok && number != "" && len(number) <= 5 && strings.Trim(number, "0123456789") == ""
}

const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// trim removes optional whitespace (RFC 9110, section 5.6.3).
func trim(s string) string { return strings.Trim(s, " \t") }
