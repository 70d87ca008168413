package httplimit

import (
	"net/netip"
	"strings"
)

// The functions in this file read what proxies write into headers. They read from the right: the nearest proxy has
// written what is there, whatever the client and other proxies have written to the left of it.

// cutLast cuts a list at its last separator that is not within a quoted string (RFC 9110, section 5.6.4), and reports
// whether there is one. It reads from the right, so an unclosed quote to the left of the separator changes nothing.
func cutLast(list string, separator byte) (rest, last string, found bool) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"' && !escapesNext(list[:i]):
			quoted = !quoted
		case list[i] == separator && !quoted:
			return list[:i], list[i+1:], true
		}
	}
	return "", list, false
}

// escapesNext reports whether text escapes the character behind it: whether it ends in an odd number of backslashes.
func escapesNext(text string) bool {
	return (len(text)-len(strings.TrimRight(text, `\`)))%2 == 1
}

// parseForwarded parses the parameter "for" of one element of Forwarded (RFC 7239, sections 4 and 6).
func parseForwarded(element string) (addr netip.Addr, ok bool) {
	for more := true; more; {
		var pair string
		element, pair, more = cutLast(element, ';')
		name, value, _ := strings.Cut(pair, "=")
		if !strings.EqualFold(trimSpace(name), "for") {
			continue
		}
		if ok { // a second one
			return netip.Addr{}, false
		}
		value = trimSpace(value)
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1] // an address contains nothing to escape
		}
		if addr, ok = parseHop(value); !ok { // "unknown", or a name that hides the address
			return netip.Addr{}, false
		}
	}
	return addr, ok
}

// parseHop parses an address as proxies write it: with or without a port, brackets and surrounding spaces.
func parseHop(hop string) (netip.Addr, bool) {
	host, port := trimSpace(hop), ""
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, port, ok = strings.Cut(inner, "]"); !ok || !strings.Contains(host, ":") {
			return netip.Addr{}, false
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 && i == strings.LastIndexByte(host, ':') {
		host, port = host[:i], host[i:]
	}
	addr, err := netip.ParseAddr(host)
	return normalize(addr), err == nil && (port == "" || isPort(port))
}

// isPort reports whether port is a colon and a number or, as in Forwarded, a name that hides the number (RFC 7239,
// section 6.2).
func isPort(port string) bool {
	number, ok := strings.CutPrefix(port, ":")
	if hidden, _ := strings.CutPrefix(number, "_"); hidden != number {
		return ok && hidden != "" && strings.Trim(hidden, tokenChars) == ""
	}
	return ok && number != "" && len(number) <= 5 && strings.Trim(number, "0123456789") == ""
}

const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// trimSpace removes optional whitespace (RFC 9110, section 5.6.3).
func trimSpace(s string) string { return strings.Trim(s, " \t") }
