// Package demo is the page of the example servers: it sends requests to their routes and shows the window sliding, by
// what the RateLimit fields of the answers say and by nothing else.
package demo

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
)

var (
	//go:embed page.html
	page string
	//go:embed page.css
	style string
	//go:embed fields.js
	fields string
	//go:embed log.js
	log string
	//go:embed timeline.js
	timeline string
	//go:embed page.js
	script string
)

// Handler serves the page. It is one document, so that one route is enough to mount it: style and script are inside, and
// the Content-Security-Policy allows them by their hashes, requests to the server it came from, and no more.
func Handler() http.Handler {
	style := "\n" + style
	script := "\n" + strings.Join([]string{fields, log, timeline, script}, "\n")
	body := strings.NewReplacer("{{style}}", style, "{{script}}", script).Replace(page)
	policy := strings.Join([]string{
		"default-src 'none'",
		"style-src " + hash(style),
		"script-src " + hash(script),
		"connect-src 'self'",
		"img-src data:", // the icon
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
	}, "; ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		io.WriteString(w, body)
	})
}

// hash is the source expression that allows an element with exactly this text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
