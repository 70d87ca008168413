package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// StartReplica runs a replica of a server, with further lines of configuration, and returns when it has all that the master
// has and follows it.
func StartReplica(t testing.TB, master *Server, config ...string) *Server {
	t.Helper()
	Long(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	s := Start(t, append([]string{"replicaof " + host + " " + port}, config...)...)
	s.AwaitReplica(t)
	return s
}

// AwaitReplica waits until a server is a replica that is up to date, and what it got stands in its append-only file, where it
// keeps one.
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

// Role is "master" or "slave", or "" of a server that does not answer.
func (s *Server) Role() string {
	info, _ := s.ask("INFO", "replication")
	_, role, _ := strings.Cut(info, "role:")
	role, _, _ = strings.Cut(role, "\r")
	return role
}

// await polls until something holds.
func (s *Server) await(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			info, err := s.ask("INFO", "replication")
			t.Fatalf("after %v the server on %s is not one that %s: %v\n%s", within, s.Addr, what, err, info)
		}
	}
}

// ask sends one command, given as its words, on a connection of its own, and returns the reply as text, lines of a list
// joined. It needs no client, so it can ask servers that come and go, and gives up soon where one hangs.
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
	return readReply(bufio.NewReader(conn))
}

func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, line := line[0], strings.TrimSpace(line[1:])
	n, _ := strconv.Atoi(line)
	switch kind {
	case '-':
		return "", errors.New(line)
	case '$':
		text := make([]byte, max(0, n+2))
		if _, err := io.ReadFull(r, text); err != nil {
			return "", err
		}
		return string(text[:max(0, n)]), nil
	case '*':
		var parts []string
		for range n {
			part, err := readReply(r)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, "\n"), nil
	}
	return line, nil
}
