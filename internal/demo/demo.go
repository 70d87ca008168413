// Package demo is the web page of the example servers. The page sends requests to their routes and draws the sliding
// window, from nothing but the RateLimit fields of the responses.
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
	//go:embed icon.svg
	icon string
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

// Handler serves the page. The page is one document that contains its icon, style and script, so one route is enough to
// serve it. Its Content-Security-Policy allows exactly these, by their hashes, and requests to the server itself.
func Handler() http.Handler {
	style := "\n" + style
	script := "\n" + strings.Join([]string{fields, log, timeline, script}, "\n")
	body := strings.NewReplacer(
		"{{icon}}", "data:image/svg+xml;base64,"+base64.StdEncoding.EncodeToString([]byte(icon)),
		"{{style}}", style,
		"{{script}}", script,
	).Replace(page)
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

// hash returns the source expression that allows an inline element with exactly this text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
