package core

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// maxKey is the longest key, in bytes, that is stored as it is.
const maxKey = 128

// keyEscaper escapes the closing brace, which would end the hash tag of a log's name, and the escape character itself.
var keyEscaper = strings.NewReplacer("%", "%25", "}", "%7D")

// canonicalKey returns the form of a key that the logs use. It has no closing brace, and its length is bounded. No two
// keys have the same form: a percent sign is followed by two hexadecimal digits, except in "%#", which begins a hash,
// and two long keys share a hash only if SHA-256 is broken.
func canonicalKey(key string) string {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		return "%#" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if strings.IndexByte(key, '%') < 0 && strings.IndexByte(key, '}') < 0 {
		return key
	}
	return keyEscaper.Replace(key)
}

// appendLogKey appends the name in Redis of the log of a canonical key under a limit:
//
//	prefix:{key}:name:windowv3
//	prefix:{key}:name:leasev3f   if the limit is InFlight
//
// The window is in milliseconds. The version changes with the format of entries, so that different versions of this
// package on one Redis never misread each other's logs. The braces put all logs of a key into one cluster slot. No two
// logs share a name: the prefix has no brace, so the first pair of braces holds the key, and after it only the last
// colon is followed by digits and a version.
func appendLogKey(b []byte, prefix, canonical string, limit Limit) []byte {
	b = append(b, prefix...)
	b = append(b, ":{"...)
	b = append(b, canonical...)
	b = append(b, "}:"...)
	b = append(b, limit.Name...)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(limit.Window/time.Millisecond), 10)
	b = append(b, "v3"...)
	if limit.InFlight {
		b = append(b, 'f')
	}
	return b
}
