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

	// ErrUnavailable is what a call wraps that Redis did not decide, together with the reason: the network's, the
	// context's or the server's own words. Whether the request was charged is unknown only when the reply was lost.
	ErrUnavailable = errors.New("core: unavailable")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func unavailable(cause error) error {
	// A server that does not know a command quotes its arguments, which are a password after AUTH and a key otherwise.
	if known, _, quotes := strings.Cut(cause.Error(), ", with args beginning with:"); quotes {
		cause = errors.New(known)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}
