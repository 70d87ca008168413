package httplimit

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/exactlimit/exactlimit/core"
)

// problem is a body of RFC 9457. The types are those that draft-ietf-httpapi-ratelimit-headers-11 registers, and
// about:blank where the status says it all.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail,omitempty"`
	Violated []string `json:"violated-policies,omitempty"`
}

const problemTypes = "https://iana.org/assignments/http-problem-types#"

// exceeded answers a denial, naming the limits that had no room or a ban.
func exceeded(d core.Decision) problem {
	p := problem{
		Type:   problemTypes + "quota-exceeded",
		Title:  "Request cannot be satisfied as assigned quota has been exceeded",
		Status: http.StatusTooManyRequests,
	}
	for _, state := range d.States() {
		if state.RetryAfter > 0 {
			p.Violated = append(p.Violated, state.Limit.Name)
		}
		if state.Banned {
			p.Type = problemTypes + "abnormal-usage-detected"
			p.Title = "Request not satisfied due to detection of abnormal request pattern"
		}
	}
	return p
}

// unavailable answers when nobody could decide. An outage is not the client's fault, so it is no 429.
func (p *Policy) unavailable() problem {
	names := make([]string, len(p.limits))
	for i, limit := range p.limits {
		names[i] = limit.Name
	}
	return problem{
		Type:     problemTypes + "temporary-reduced-capacity",
		Title:    "Request cannot be satisfied due to temporary server capacity constraints",
		Status:   http.StatusServiceUnavailable,
		Violated: names,
	}
}

// unidentified answers a request that has no key. Only a keyError is told to the client. An error of the user's own may
// hold what no client should read, and may be the service's fault, so it is told to the service.
func (g *Gate[C]) unidentified(h http.Header, err error) *Refusal {
	var wrong *mistake
	if errors.As(err, &wrong) {
		return g.refuse(h, internalError, err)
	}
	missing := &keyError{status: http.StatusUnauthorized, detail: "The request does not say who it is from."}
	if errors.As(err, &missing) {
		err = nil
	}
	if missing.challenge != "" && !g.dryRun {
		h.Set("WWW-Authenticate", missing.challenge)
	}
	return g.refuse(h, problem{Type: "about:blank", Title: http.StatusText(missing.status), Status: missing.status, Detail: missing.detail}, err)
}

var internalError = problem{Type: "about:blank", Title: "Internal Server Error", Status: http.StatusInternalServerError}

func (p problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and a number: it cannot fail
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}

func (p problem) writeText(w http.ResponseWriter) {
	text := p.Title
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(p.Status)
	io.WriteString(w, text+"\n")
}
