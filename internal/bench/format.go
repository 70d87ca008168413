package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// share formats n as a percentage of another number.
func share(n, of int) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(of))
}

// cpuTime formats the CPU time of Redis. It varies less than other times, so it has two decimal places.
func cpuTime(d time.Duration) string { return fmt.Sprintf("%.2f µs", float64(d)/1000) }

// bold returns a name in Markdown, in bold face if it is that of exactlimit.
func bold(name string) string {
	if name == ours {
		return "**" + name + "**"
	}
	return name
}

// capital returns s with its first letter in upper case.
func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// amount formats a number with two or three digits, such as 950, 9.5k, 129k and 4.6M.
func amount(x float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e6, "M"}, {1e3, "k"}} {
		if x >= 0.9995*unit.size {
			if x /= unit.size; x < 9.95 {
				return fmt.Sprintf("%.1f%s", x, unit.name)
			}
			return fmt.Sprintf("%.0f%s", x, unit.name)
		}
	}
	return fmt.Sprintf("%.0f", x)
}

// latency formats a time with two or three digits.
func latency(d time.Duration) string {
	x := float64(d)
	for _, unit := range []string{"ns", "µs", "ms"} {
		if x < 999.5 {
			digits := 0
			if unit != "ns" && x < 9.95 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, x, unit)
		}
		x /= 1000
	}
	return fmt.Sprintf("%.1f s", x)
}

// thousands formats a number with commas.
func thousands(n int) string {
	text := fmt.Sprint(int(math.Abs(float64(n))))
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}
