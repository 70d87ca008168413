package core

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrInvalid is what a call that makes no sense wraps: a limit that admits nothing, an empty key, a cost no limit can
	// hold. It is a mistake in the program; the message says which, and what to write instead.
	ErrInvalid = errors.New("core: invalid")

	// ErrUnavailable is what a call wraps that nobody decided, together with the reason: the network's, the context's or
	// the server's own words. Redis did not, and the policy is FailClosed; or the caller has cancelled; or the Limiter is
	// closed. Whether the request was charged is unknown where Redis may have been asked.
	ErrUnavailable = errors.New("core: unavailable")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", ErrUnavailable, unquoted(cause)) }

// unquoted is an error that can be shown: a server that does not know a command quotes its arguments, which are a password
// after AUTH and a key otherwise.
func unquoted(cause error) error {
	if known, _, quotes := strings.Cut(cause.Error(), ", with args beginning with:"); quotes {
		return errors.New(known)
	}
	return cause
}
