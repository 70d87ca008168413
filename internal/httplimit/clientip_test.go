package httplimit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// addressRow is a request and its key. Headers are lines of "Name: value".
type addressRow struct{ remote, header, key string }

const (
	proxy  = "10.0.0.1:80"
	proxy6 = "[fd00::1]:80"
	client = "203.0.113.7"
)

func (row addressRow) request() *http.Request {
	r := &http.Request{RemoteAddr: row.remote, Header: http.Header{}}
	for line := range strings.Lines(row.header) {
		name, value, _ := strings.Cut(line, ":")
		r.Header.Add(name, strings.TrimSpace(value))
	}
	return r
}

func (row addressRow) check(t *testing.T, key func(*http.Request) (string, error)) {
	t.Helper()
	got, err := key(row.request())
	assert.Equal(t, row.key, got, "%q from %s", row.header, row.remote)
	assert.Equal(t, row.key == "", err != nil, "%q from %s: %v", row.header, row.remote, err)
}

var peers = []addressRow{
	{"203.0.113.7:1234", "", "ip:203.0.113.7"},
	{"203.0.113.7:0", "", "ip:203.0.113.7"},
	{"[::ffff:203.0.113.7]:1234", "", "ip:203.0.113.7"},
	{"[::ffff:cb00:7107]:1234", "", "ip:203.0.113.7"},
	{"[64:ff9b::203.0.113.7]:1234", "", "ip:203.0.113.7"},
	{"[64:ff9b::cb00:7107%eth0]:1234", "", "ip:203.0.113.7"},
	{"[64:ff9b::1:203.0.113.7]:1234", "", "ip:64:ff9b::/64"}, // not in the prefix

	// RFC 8215: each address is one host, wherever in it a translator puts the IPv4 address (RFC 6052, section 2.2).
	{"[64:ff9b:1::203.0.113.7]:1234", "", "ip:64:ff9b:1::cb00:7107/128"},
	{"[64:ff9b:1::203.0.113.8%eth0]:1234", "", "ip:64:ff9b:1::cb00:7108/128"},
	{"[64:ff9b:1:abcd:cb:71:700::]:1234", "", "ip:64:ff9b:1:abcd:cb:71:700:0/128"},
	{"[64:ff9b:1:cb00:71:700::]:1234", "", "ip:64:ff9b:1:cb00:71:700::/128"},
	{"[64:ff9b:1:ffff:ffff:ffff:ffff:ffff]:1", "", "ip:64:ff9b:1:ffff:ffff:ffff:ffff:ffff/128"},
	{"[64:ff9b:2::203.0.113.7]:1234", "", "ip:64:ff9b:2::/64"},

	// 6to4: the IPv4 address, whichever of its 2^80 addresses the host chooses.
	{"[2002:cb00:7107::1]:1234", "", "ip:203.0.113.7"},
	{"[2002:cb00:7107:ffff:ffff:ffff:ffff:ffff]:1234", "", "ip:203.0.113.7"},
	{"[2002:cb00:7108::%eth0]:1234", "", "ip:203.0.113.8"},

	// Teredo: the inverted IPv4 address, whichever server, flags and port the host chooses.
	{"[2001:0:4136:e378:8000:63bf:34ff:8ef8]:1234", "", "ip:203.0.113.7"},
	{"[2001:0:102:304:0:ffff:34ff:8ef8]:1234", "", "ip:203.0.113.7"},
	{"[2001:0:4136:e378:8000:63bf:34ff:8ef7]:1234", "", "ip:203.0.113.8"}, // another client of the same server
	{"[2001:1:4136:e378:8000:63bf:34ff:8ef8]:1234", "", "ip:2001:1:4136:e378::/64"},
	{"[2003:cb00:7107::1]:1234", "", "ip:2003:cb00:7107::/64"},
	{"[2001:db8:1:2:3:4:5:6]:1234", "", "ip:2001:db8:1:2::/64"},
	{"[2001:db8:1:2::]:1234", "", "ip:2001:db8:1:2::/64"},
	{"[2001:db8:1:2:ffff:ffff:ffff:ffff]:1234", "", "ip:2001:db8:1:2::/64"},
	{"[fe80::1%eth0]:1234", "", "ip:fe80::/64"},
	{"[fe80::1%eth1]:1234", "", "ip:fe80::/64"},
	{"[::1]:1234", "", "ip:::/64"},
	{"127.0.0.1:80", "", "ip:127.0.0.1"},
	{"", "", ""},
	{"@", "", ""},
	{"pipe", "", ""},
	{"203.0.113.7", "", ""},
	{"203.0.113.07:1234", "", ""},
	{"example.com:1234", "", ""},
	{"[2001:db8::1]", "", ""},
	{"\x00:1", "", ""},

	// By default, no header is trusted.
	{"203.0.113.7:1", "X-Forwarded-For: 198.51.100.1\nForwarded: for=198.51.100.1\n" +
		"X-Real-IP: 198.51.100.1\nCF-Connecting-IP: 198.51.100.1", "ip:203.0.113.7"},
	{"127.0.0.1:1", "X-Forwarded-For: 198.51.100.1", "ip:127.0.0.1"},
	{"10.0.0.1:1", "X-Forwarded-For: 198.51.100.1", "ip:10.0.0.1"},
}

var trusted = []string{"10.0.0.0/8", "fd00::/8", "192.0.2.1"}

var forwardedFor = []addressRow{
	{proxy, "X-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"},
	{proxy6, "X-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"},
	{"[::ffff:10.0.0.1]:80", "X-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"},
	{"192.0.2.1:80", "X-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"},
	{"192.0.2.2:80", "X-Forwarded-For: 203.0.113.7", "ip:192.0.2.2"}, // not a trusted proxy
	{client + ":1", "X-Forwarded-For: 10.0.0.9", "ip:203.0.113.7"},

	// From the right, and only past trusted hops.
	{proxy, "X-Forwarded-For: 198.51.100.1, 203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.0.0.2", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 10.0.0.9, 198.51.100.1, 203.0.113.7, 10.0.0.2, fd00::3", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 198.51.100.1\nX-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 198.51.100.1, 203.0.113.7\nX-Forwarded-For: 10.0.0.2", "ip:203.0.113.7"},
	{proxy, "x-forwarded-for: 198.51.100.1\nX-FORWARDED-FOR: 203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 10.0.0.3, 10.0.0.2", "ip:10.0.0.3"}, // all are trusted: the furthest one
	{proxy, "", "ip:10.0.0.1"},
	{proxy, "Forwarded: for=203.0.113.7\nX-Real-IP: 203.0.113.7\nX_Forwarded_For: 203.0.113.7", "ip:10.0.0.1"},

	// Spellings of addresses.
	{proxy, "X-Forwarded-For: 203.0.113.7:4711", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: \t 203.0.113.7 \t", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 198.51.100.1,203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 2001:db8::1", "ip:2001:db8::/64"},
	{proxy, "X-Forwarded-For: [2001:db8::1]", "ip:2001:db8::/64"},
	{proxy, "X-Forwarded-For: [2001:db8::1]:443", "ip:2001:db8::/64"},
	{proxy, "X-Forwarded-For: 2001:DB8:0:0:0:0:0:1%eth0", "ip:2001:db8::/64"},
	{proxy, "X-Forwarded-For: [fe80::1%eth0]:443", "ip:fe80::/64"},
	{proxy, "X-Forwarded-For: ::ffff:203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: [::ffff:203.0.113.7]:443", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 64:ff9b::203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 203.0.113.7, ::ffff:10.0.0.2", "ip:203.0.113.7"}, // also a proxy
	{proxy, "X-Forwarded-For: 198.51.100.1, 2002:a00:2::1", "ip:10.0.0.2"},     // not a proxy
	{"[2002:a00:2::1]:80", "X-Forwarded-For: 198.51.100.1", "ip:10.0.0.2"},
	{proxy, "X-Forwarded-For: 198.51.100.1, 2002:cb00:7107::9", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 64:ff9b:1::203.0.113.7", "ip:64:ff9b:1::cb00:7107/128"},

	// An element that cannot be parsed ends the search at the last trusted hop. What is to the left of it is ignored.
	{proxy, "X-Forwarded-For:", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: unknown", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 198.51.100.1, unknown", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 198.51.100.1, unknown, 10.0.0.2", "ip:10.0.0.2"},
	{proxy, "X-Forwarded-For: 198.51.100.1,", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 198.51.100.1, , 10.0.0.2", "ip:10.0.0.2"},
	{proxy, "X-Forwarded-For: 198.51.100.1 203.0.113.7", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 203.0.113.007", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 203.0.113", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 203.0.113.7:http", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 203.0.113.7:", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 203.0.113.7:123456", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: [203.0.113.7]", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: [2001:db8::1", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: [2001:db8::1]x", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 2001:db8::1]", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: \"203.0.113.7\"", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: \", 203.0.113.7", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: " + strings.Repeat("198.51.100.1, ", 10_000) + "203.0.113.7", "ip:203.0.113.7"},
}

var forwardedElements = []addressRow{
	{proxy, "Forwarded: for=203.0.113.7", "ip:203.0.113.7"},
	{client + ":1", "Forwarded: for=198.51.100.1", "ip:203.0.113.7"},
	{proxy, "X-Forwarded-For: 198.51.100.1", "ip:10.0.0.1"}, // not the header that ProxyHeader names
	{proxy, "Forwarded: for=198.51.100.1, for=203.0.113.7;proto=https;by=10.0.0.1", "ip:203.0.113.7"},
	{proxy, "Forwarded: for=198.51.100.1\nForwarded: For=\"203.0.113.7:4711\"", "ip:203.0.113.7"},
	{proxy, "Forwarded: proto=https ; FOR = 203.0.113.7 ; host=\"a;for=1.2.3.4,b\"", "ip:203.0.113.7"},
	{proxy, "Forwarded: for=\"[2001:db8:cafe::17]:4711\"", "ip:2001:db8:cafe::/64"},
	{proxy, "Forwarded: for=\"[2001:db8:cafe::17]:_port\"", "ip:2001:db8:cafe::/64"},
	{proxy, "Forwarded: for=203.0.113.7, for=10.0.0.2;by=10.0.0.1", "ip:203.0.113.7"},
	{proxy, "Forwarded: host=\"a\\\"b\";for=203.0.113.7", "ip:203.0.113.7"},

	// An unclosed quote of the client does not hide what the proxy adds.
	{proxy, "Forwarded: for=\"198.51.100.1, for=203.0.113.7", "ip:203.0.113.7"},
	{proxy, "Forwarded: for=\"\\, for=\"[2001:db8::1]\"", "ip:2001:db8::/64"},

	{proxy, "", "ip:10.0.0.1"},
	{proxy, "Forwarded: ", "ip:10.0.0.1"},
	{proxy, "Forwarded: for=198.51.100.1, for=unknown", "ip:10.0.0.1"},
	{proxy, "Forwarded: for=198.51.100.1, for=_hidden, for=10.0.0.2", "ip:10.0.0.2"},
	{proxy, "Forwarded: for=198.51.100.1, proto=https", "ip:10.0.0.1"},
	{proxy, "Forwarded: for=198.51.100.1;for=203.0.113.7", "ip:10.0.0.1"}, // two parameters
	{proxy, "Forwarded: for=203.0.113.7:_", "ip:10.0.0.1"},
	{proxy, "Forwarded: for", "ip:10.0.0.1"},
	{proxy, "Forwarded: for=\"", "ip:10.0.0.1"},
	{proxy, "Forwarded: 203.0.113.7", "ip:10.0.0.1"},
}

var single = []addressRow{
	{proxy, "CF-Connecting-IP: 203.0.113.7", "ip:203.0.113.7"},
	{proxy, "cf-connecting-ip: 2001:db8::1", "ip:2001:db8::/64"},
	{client + ":1", "CF-Connecting-IP: 198.51.100.1", "ip:203.0.113.7"},
	{proxy, "CF-Connecting-IP: 198.51.100.1\nCF-Connecting-IP: 203.0.113.7", "ip:10.0.0.1"},
	{proxy, "CF-Connecting-IP: 198.51.100.1, 203.0.113.7", "ip:10.0.0.1"},
	{proxy, "CF-Connecting-IP: ", "ip:10.0.0.1"},
	{proxy, "CF-Connecting-IP: 203.0.113.7:https", "ip:10.0.0.1"},
	{proxy, "X-Forwarded-For: 198.51.100.1", "ip:10.0.0.1"},
}

func TestClientIP(t *testing.T) {
	for _, row := range peers {
		row.check(t, ClientIP())
	}
	for _, row := range forwardedFor {
		row.check(t, ClientIP(TrustedProxies(trusted...)))
		row.check(t, ClientIP(TrustedProxies(trusted[:2]...), ProxyHeader("x-forwarded-for"),
			TrustedProxies(trusted[2])))
	}
	for _, row := range forwardedElements {
		row.check(t, ClientIP(TrustedProxies(trusted...), ProxyHeader("forwarded")))
	}
	for _, row := range single {
		row.check(t, ClientIP(TrustedProxies(trusted...), ProxyHeader("CF-Connecting-IP")))
	}
	for bits, key := range map[int]string{
		32:  "ip:2001:db8::/32",
		56:  "ip:2001:db8:1:200::/56",
		64:  "ip:2001:db8:1:2ff::/64",
		128: "ip:2001:db8:1:2ff:3:4:5:6/128",
	} {
		addressRow{"[2001:db8:1:2ff:3:4:5:6]:1", "", key}.check(t, ClientIP(IPv6Prefix(bits)))
		addressRow{"[::ffff:203.0.113.7]:1", "", "ip:203.0.113.7"}.check(t, ClientIP(IPv6Prefix(bits)))
		addressRow{"[2002:cb00:7107::1]:1", "", "ip:203.0.113.7"}.check(t, ClientIP(IPv6Prefix(bits)))
		addressRow{"[64:ff9b:1::203.0.113.7]:1", "", "ip:64:ff9b:1::cb00:7107/128"}.check(t, ClientIP(IPv6Prefix(bits)))
	}
}

// An empty list of proxies, which may come from an optional setting, trusts no proxy.
func TestNoTrustedProxies(t *testing.T) {
	var none []string
	for _, row := range peers {
		row.check(t, ClientIP(TrustedProxies(none...)))
	}
	for header, value := range map[string]string{
		"X-Real-IP": "198.51.100.1", "X-Forwarded-For": "198.51.100.1", "Forwarded": "for=198.51.100.1",
	} {
		for _, remote := range []string{proxy, proxy6, "127.0.0.1:80"} {
			r := addressRow{remote, header + ": " + value, ""}.request()
			got, err := ClientIP(ProxyHeader(header), TrustedProxies())(r)
			require.NoError(t, err)
			want, err := ClientIP()(r)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
	}
	some := ClientIP(TrustedProxies(none...), TrustedProxies("10.0.0.0/8"))
	addressRow{proxy, "X-Forwarded-For: 203.0.113.7", "ip:203.0.113.7"}.check(t, some)
}

// The peer of a Unix socket has no address, even if its name looks like one.
func TestClientIPOnUnixSockets(t *testing.T) {
	const writeUnix, setHeader = `write TrustedProxies("unix")`, "let it set X-Forwarded-For"
	const forwardedFor = "X-Forwarded-For: "
	unix, network := TrustedProxies("unix"), TrustedProxies("10.0.0.0/8")
	type opts = []AddressOption
	for _, row := range []struct {
		opts         opts
		remote       string
		header       string
		key, instead string
	}{
		{nil, "@", "", "", writeUnix},
		{nil, "203.0.113.7:1234", "", "", writeUnix},
		{opts{network}, "10.0.0.1:80", forwardedFor + "203.0.113.7", "", writeUnix},
		{opts{unix}, "@", forwardedFor + "198.51.100.1, 203.0.113.7", "ip:203.0.113.7", ""},
		{opts{unix}, "", forwardedFor + "203.0.113.7, 10.0.0.1", "ip:10.0.0.1", ""},
		{opts{unix, network}, "", forwardedFor + "203.0.113.7, 10.0.0.1", "ip:203.0.113.7", ""},
		{opts{unix, ProxyHeader("X-Real-IP")}, "@", "X-Real-IP: 203.0.113.7", "ip:203.0.113.7", ""},
		{opts{unix}, "@", "", "", setHeader},
		{opts{unix}, "@", forwardedFor + "unknown", "", setHeader},
	} {
		local := &net.UnixAddr{Name: "/run/app.sock", Net: "unix"}
		r := addressRow{row.remote, row.header, ""}.request()
		r = r.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, local))
		key, err := ClientIP(row.opts...)(r)
		assert.Equal(t, row.key, key, row)
		if row.key == "" {
			assert.ErrorContains(t, err, row.instead)
		}
	}
	addressRow{"203.0.113.7:1", forwardedFor + "198.51.100.1", "ip:203.0.113.7"}.check(t, ClientIP(unix))
}

// Invalid address options panic with what to write instead.
func TestInvalidAddressOptions(t *testing.T) {
	for _, row := range []struct {
		opts    func() AddressOption
		instead string
	}{
		{func() AddressOption { return TrustedProxies("0.0.0.0/0") }, "name only the proxies"},
		{func() AddressOption { return TrustedProxies("10.0.0.0/8", "::/0") }, "name only the proxies"},
		{func() AddressOption { return TrustedProxies("128.0.0.0/1") }, "name only the proxies"},
		{func() AddressOption { return TrustedProxies("2000::/3") }, "name only the proxies"},
		{func() AddressOption { return TrustedProxies("10.1.2.3/8") }, `write "10.0.0.0/8" or "10.1.2.3"`},
		{func() AddressOption { return TrustedProxies("::ffff:10.0.0.0/104") }, "write 10.0.0.0/8"},
		{func() AddressOption { return TrustedProxies("::ffff:10.0.0.1") }, "write 10.0.0.1/32"},
		{func() AddressOption { return TrustedProxies("64:ff9b::/96") }, "write 0.0.0.0/0"},
		{func() AddressOption { return TrustedProxies("proxy.internal") }, "neither an address nor a prefix"},
		{func() AddressOption { return TrustedProxies("fe80::1%eth0") }, "neither an address nor a prefix"},
		{func() AddressOption { return TrustedProxies("10.0.0.0/8, fd00::/8") }, "neither an address nor a prefix"},
		{func() AddressOption { return TrustedProxies("") }, "neither an address nor a prefix"},
		{func() AddressOption { return ProxyHeader("X-Real-IP") },
			"needs TrustedProxies; otherwise any client can set it"},
		{func() AddressOption { return ProxyHeader("") }, "not the name of a header field"},
		{func() AddressOption { return ProxyHeader("Host") }, "a key function that returns Request.Host"},
		{func() AddressOption { return IPv6Prefix(0) }, "write a number from 32"},
		{func() AddressOption { return IPv6Prefix(129) }, "write a number from 32"},
	} {
		func() {
			defer func() {
				message, _ := recover().(string)
				assert.Contains(t, message, row.instead)
			}()
			ClientIP(row.opts())
			t.Error("no panic: ", row.instead)
		}()
	}
	for _, valid := range []string{"10.0.0.0/8", "fc00::/7", "fd00::/8", "2400:cb00::/32", "10.0.0.1", "::1", "unix"} {
		assert.NotPanics(t, func() { TrustedProxies(valid) }, valid)
	}
}

func TestFrameworkClientIP(t *testing.T) {
	self := func(r *http.Request) *http.Request { return r }
	for found, want := range map[string]string{
		"203.0.113.7":          "ip:203.0.113.7",
		"203.0.113.7:1":        "ip:203.0.113.7",
		" 203.0.113.7":         "ip:203.0.113.7",
		"::ffff:203.0.113.7":   "ip:203.0.113.7",
		"2001:db8::1":          "ip:2001:db8::/64",
		"2002:cb00:7107::9":    "ip:203.0.113.7",
		"fe80::1%eth0":         "ip:fe80::/64",
		"":                     "", // what Gin and Echo return if there is no address
		"<nil>":                "",
		"unknown":              "",
		"203.0.113.7, 1.1.1.1": "",
	} {
		finds := func(*http.Request, *http.Request) string { return found }
		key, err := FrameworkClientIP(self, finds, "")(&http.Request{})
		assert.Equal(t, want, key, found)
		assert.Equal(t, want == "", err != nil, found)
	}
	spoofable := func(_, r *http.Request) string { return r.Header.Get("X-Forwarded-For") }
	_, err := FrameworkClientIP(self, spoofable, "write something else")(&http.Request{})
	assert.EqualError(t, err, "exactlimit: FrameworkClientIP: the framework trusts headers from any client,"+
		" so clients can choose their addresses: write something else")
}

// requireAddress checks that a key of ClientIP contains an address.
func requireAddress(t *testing.T, key string) {
	addr, ok := strings.CutPrefix(key, "ip:")
	require.True(t, ok, key)
	addr, _, _ = strings.Cut(addr, "/")
	_, err := netip.ParseAddr(addr)
	require.NoError(t, err, key)
}

// The key of any peer contains an address. To normalize twice is to normalize once, and a normalized address has the
// same key.
func FuzzPeer(f *testing.F) {
	for _, row := range peers {
		f.Add(row.remote)
	}
	f.Fuzz(func(t *testing.T, remote string) {
		key, err := ClientIP()(&http.Request{RemoteAddr: remote})
		if err != nil {
			require.Empty(t, key, "a key with an error")
			return
		}
		requireAddress(t, key)
		normalized := normalize(netip.MustParseAddrPort(remote).Addr())
		require.Equal(t, normalized, normalize(normalized))
		again, err := ClientIP()(&http.Request{RemoteAddr: netip.AddrPortFrom(normalized, 1).String()})
		require.NoError(t, err)
		require.Equal(t, key, again)
	})
}
