package httplimit

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// keyError is why a request has no key, in words that its sender may read.
type keyError struct{ detail string }

func (e *keyError) Error() string { return e.detail }

var errNoAddress = errors.New("exactlimit: ClientIP on a connection without an IP address, so count by something else")

// ClientIP counts by the address of the socket's peer, and by nothing that the client writes. An IPv4 address that is
// mapped into IPv6 is the IPv4 address. IPv6 addresses count by /64, which is what one client is given to choose from.
//
// A connection that has no address, as on a Unix socket, is a mistake of the service.
func ClientIP(r *http.Request) (string, error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "", fmt.Errorf("%w: %q", errNoAddress, r.RemoteAddr)
	}
	if peer.Addr().Is4() {
		host, _, _ := strings.Cut(r.RemoteAddr, ":")
		return "ip:" + host, nil // its own canonical form: netip takes no other
	}
	addr := peer.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return "ip:" + addr.String(), nil
	}
	return "ip:" + netip.PrefixFrom(addr, 64).Masked().String(), nil
}

// Header returns a key function for the value of a header field, such as an API key. Only a hash of the value is kept, so
// that no secret reaches Redis. A request without a value has no key.
func Header(name string) func(*http.Request) (string, error) {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) }) {
		panic(fmt.Sprintf("exactlimit: %q is not the name of a header field: write one such as \"X-API-Key\"", name))
	}
	if strings.EqualFold(name, "Host") {
		panic("exactlimit: net/http takes Host out of the header fields: write a key function that returns the request's Host")
	}
	prefix := "header:" + strings.ToLower(name) + ":"
	missing := &keyError{"The " + name + " header is missing."}
	return func(r *http.Request) (string, error) {
		value := r.Header.Get(name)
		if value == "" {
			return "", missing
		}
		sum := sha256.Sum256([]byte(value))
		return prefix + base64.RawURLEncoding.EncodeToString(sum[:]), nil
	}
}

// FirstOf returns a key function that takes the first key there is. Its keys carry their place in the list, so that what
// one function returns never stands in for what another does. If there is none, the first function says why.
func FirstOf[C any, K ~func(C) (string, error)](keys []K) func(C) (string, error) {
	if len(keys) == 0 {
		panic("exactlimit: FirstOf needs at least one key")
	}
	for _, key := range keys {
		if key == nil {
			panic("exactlimit: FirstOf was given a nil key")
		}
	}
	return func(c C) (string, error) {
		var first error
		for i, key := range keys {
			found, err := key(c)
			if err == nil && found != "" {
				return strconv.Itoa(i) + ":" + found, nil
			}
			if first == nil {
				first = err
			}
		}
		return "", first
	}
}
