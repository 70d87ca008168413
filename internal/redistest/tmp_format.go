package redistest

import "strings"

// added reports whether an entry is for what a request has cost beyond its charge.
func added(id string) bool { return strings.HasSuffix(id, "+") }

// admissionOf returns the id of the admission of which an entry is all or a part.
func admissionOf(id string) string {
	if i := strings.IndexAny(id, ":="); i >= 0 && !added(id) {
		return id[:i]
	}
	return id
}
