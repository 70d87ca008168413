//go:build !unix

package redistest

import "errors"

var errNoPause = errors.New("redistest: this system has no signal that stops a process: run this test on Unix")

// Pause returns an error, since this system has no signal that stops a process.
func (s *Server) Pause() error { return errNoPause }

// Resume returns an error, as Pause does.
func (s *Server) Resume() error { return errNoPause }
