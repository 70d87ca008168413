package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// server is a redis-server of our own on loopback. It writes no files and dies with us.
type server struct {
	addr   string
	cmd    *exec.Cmd
	client rueidis.Client // for what is not measured
}

// startServer runs a redis-server, behind a wrapper such as taskset if one is given.
func startServer(wrapper ...string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	listener.Close()

	words := append(slices.Clone(wrapper), "redis-server", "--bind", "127.0.0.1", "--port", port,
		"--save", "", "--appendonly", "no", "--dir", os.TempDir())
	log := new(bytes.Buffer)
	s := &server{addr: "127.0.0.1:" + port, cmd: exec.Command(words[0], words[1:]...)}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: install redis-server 7.0 or later", err)
	}
	for range 200 {
		s.client, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}, DisableCache: true})
		if err == nil {
			return s, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("redis-server does not answer: %w\n%s", err, log)
}

func (s *server) stop() {
	if s.client != nil {
		s.client.Close()
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *server) do(words ...string) rueidis.RedisResult {
	return s.client.Do(context.Background(), s.client.B().Arbitrary(words...).Build())
}

// flush empties the server before it returns, so that nobody's turn pays for the keys of the last.
func (s *server) flush() error { return s.do("FLUSHALL", "SYNC").Error() }

func (s *server) version() string {
	info, _ := s.do("INFO", "server").ToString()
	_, after, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(after, "\r")
	return version
}
