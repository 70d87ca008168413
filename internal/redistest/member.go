package redistest

import (
	"fmt"
	"strconv"
	"strings"
)

// IsMark reports whether a member of a log is a mark. The mark of a ban of n microseconds is "!n".
func IsMark(member string) bool {
	return member == "*" || member == "~" || strings.HasPrefix(member, "!")
}

// added reports whether an entry with this id is for what a request has cost beyond its charge.
func added(id string) bool { return strings.HasSuffix(id, "+") }

// admissionOf returns the id of the admission of which an entry is all or a part.
func admissionOf(id string) string {
	if i := strings.IndexAny(id, ":="); i >= 0 && !added(id) {
		return id[:i]
	}
	return id
}

// parseMember returns the id and the weight of a member. A weight of one is not written.
func parseMember(member string) (id string, weight int, err error) {
	id, text, found := strings.Cut(member, "*")
	if !found || member == "*" {
		return member, 1, nil
	}
	if weight, err = strconv.Atoi(text); err != nil || weight < 2 || strconv.Itoa(weight) != text {
		return "", 0, fmt.Errorf("%q is not the weight of %s", text, member)
	}
	return id, weight, nil
}

// memberOf is the reverse of parseMember.
func memberOf(id string, weight int) string {
	if weight == 1 {
		return id
	}
	return id + "*" + strconv.Itoa(weight)
}
