package httplimit

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/exactlimit/exactlimit/core"
)

// problem is a problem body (RFC 9457). Its type is one that draft-ietf-httpapi-ratelimit-headers-11 registers, or
// about:blank if the status is all that there is to tell.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail,omitempty"`
	Violated []string `json:"violated-policies,omitempty"`
}

const problemTypes = "https://iana.org/assignments/http-problem-types#"

// quotaExceeded returns the problem of a denial. It names the limits that have no room or a ban.
func quotaExceeded(d core.Decision) problem {
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

// unavailable returns the problem of a request that got no decision. An outage is not the client's fault, so the status
// is not 429.
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

// refuseWithoutKey refuses a request that has no key. The client sees only the text of a keyError. Any other error may
// contain what no client should read, and may be the service's fault, so it goes to the log.
func (g *Gate[C]) refuseWithoutKey(h http.Header, err error) *Refusal {
	var config *configError
	if errors.As(err, &config) {
		return g.refuse(h, internalError, err)
	}
	reason := &keyError{status: http.StatusUnauthorized, detail: "The request does not identify its client."}
	if errors.As(err, &reason) {
		err = nil
	}
	if reason.challenge != "" && !g.dryRun {
		h.Set("WWW-Authenticate", reason.challenge)
	}
	return g.refuse(h, problem{
		Type:   "about:blank",
		Title:  http.StatusText(reason.status),
		Status: reason.status,
		Detail: reason.detail,
	}, err)
}

var internalError = problem{Type: "about:blank", Title: "Internal Server Error", Status: http.StatusInternalServerError}

func (p problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and a number, so there is no error
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
