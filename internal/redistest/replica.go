package redistest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// StartReplica runs a replica of a server, with further lines of configuration, and returns once it has the data of the
// master and follows it.
func StartReplica(t testing.TB, master *Server, config ...string) *Server {
	t.Helper()
	Long(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	s := Start(t, append([]string{"replicaof " + host + " " + port}, config...)...)
	s.AwaitReplica(t)
	return s
}

// AwaitReplica waits until a server is a replica that is up to date, and has written what it got to its append-only
// file, if it has one.
func (s *Server) AwaitReplica(t testing.TB) {
	t.Helper()
	s.await(t, 60*time.Second, "follows its master", func() bool {
		replication, _ := s.ask("INFO", "replication")
		persistence, _ := s.ask("INFO", "persistence")
		return strings.Contains(replication, "master_link_status:up") &&
			strings.Contains(replication, "master_sync_in_progress:0") &&
			strings.Contains(persistence, "aof_rewrite_in_progress:0") &&
			strings.Contains(persistence, "aof_rewrite_scheduled:0")
	})
}

// Role returns "master" or "slave", or "" if the server does not answer.
func (s *Server) Role() string {
	info, _ := s.ask("INFO", "replication")
	_, role, _ := strings.Cut(info, "role:")
	role, _, _ = strings.Cut(role, "\r")
	return role
}

// await waits until holds returns true.
func (s *Server) await(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			info, err := s.ask("INFO", "replication")
			t.Fatalf("after %v the server on %s is not one that %s: %v\n%s", within, s.Addr, what, err, info)
		}
	}
}

// ask sends a command, given by its words, on a connection of its own, and returns the reply as text: see textOf. It
// needs no client, so it can ask servers that start and stop, and gives up after a second if a server hangs.
func (s *Server) ask(words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(conn, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(word), word)
	}
	reply, err := ReadValue(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	return textOf(reply)
}
