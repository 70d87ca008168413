//go:build unix

package redistest

import "syscall"

// Pause stops the server as if it hung: connections stay open, the kernel accepts new ones and what is sent, and
// nothing is answered until Resume. Kill ends a paused server too.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }
