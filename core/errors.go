package core

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrInvalid is wrapped by errors about invalid arguments, such as a limit that admits nothing, an empty key, or a
	// cost above Max. Such an error is a mistake in the program. The message says what is wrong, and what to write
	// instead.
	ErrInvalid = errors.New("exactlimit: invalid")

	// ErrUnavailable is wrapped by errors of calls that got no decision: Redis failed under FailClosed, the context
	// ended, or the Limiter is closed. Settle, Refund, Release and Reset return such an error whenever Redis does not
	// answer, whatever the policy. The error also wraps its cause, such as a network error, the context's error, or an
	// error reply of Redis. Redis may or may not have done what the call asked for.
	ErrUnavailable = errors.New("exactlimit: unavailable")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", ErrUnavailable, redacted(cause)) }

// redacted returns an error without the arguments of a command. A server that does not know the command quotes them:
// the password after AUTH, and otherwise a key.
func redacted(cause error) error {
	if known, _, quotes := strings.Cut(cause.Error(), ", with args beginning with:"); quotes {
		return errors.New(known)
	}
	return cause
}
