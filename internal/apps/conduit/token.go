package conduit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// Config is what an operator sets.
type Config struct {
	Secret         []byte   // signs the tokens
	TrustedProxies []string // addresses and networks; an empty list trusts no proxy
}

var encoding = base64.RawURLEncoding

// header is that of each token, {"alg":"HS256","typ":"JWT"}.
const header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"

type claims struct {
	User    int   `json:"id"`
	Expires int64 `json:"exp"`
}

// Token returns a JSON web token that says who a user is, for three days.
func (c Config) Token(user User) string {
	payload, _ := json.Marshal(claims{user.ID, time.Now().Add(72 * time.Hour).Unix()}) // numbers: it cannot fail
	signed := header + "." + encoding.EncodeToString(payload)
	return signed + "." + encoding.EncodeToString(c.sign(signed))
}

// Verify returns the id of the user that a token names.
func (c Config) Verify(token string) (user int, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return 0, false
	}
	signed := token[:i]
	signature, err := encoding.DecodeString(token[i+1:])
	payload, ours := strings.CutPrefix(signed, header+".")
	if err != nil || !ours || !hmac.Equal(signature, c.sign(signed)) {
		return 0, false
	}
	var found claims
	text, err := encoding.DecodeString(payload)
	if err != nil || json.Unmarshal(text, &found) != nil || time.Now().Unix() >= found.Expires {
		return 0, false
	}
	return found.User, true
}

func (c Config) sign(text string) []byte {
	mac := hmac.New(sha256.New, c.Secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
