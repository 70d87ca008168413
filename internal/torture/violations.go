package torture

import "fmt"

// violations are what a check has found. It keeps the first few, since the rest are hardly worth reading.
type violations struct {
	first []string
	n     int
}

func (v *violations) add(format string, args ...any) {
	if v.n++; v.n <= 10 {
		v.first = append(v.first, fmt.Sprintf(format, args...))
	}
}

func (v *violations) list() []string {
	if more := v.n - len(v.first); more > 0 {
		return append(v.first, fmt.Sprintf("and %d more of these", more))
	}
	return v.first
}
