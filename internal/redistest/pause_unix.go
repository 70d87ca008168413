//go:build unix

package redistest

import "syscall"

// Pause stops the server as a machine does that hangs: its connections stay open, the kernel still accepts new ones and
// takes what is sent, and nobody answers until Resume. Kill ends a paused server too.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused server go on where it stopped.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }
