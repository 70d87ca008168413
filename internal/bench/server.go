package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// server is a redis-server on loopback. It dies with this process, and leaves no files.
type server struct {
	addr   string
	file   string // the configuration that a node of a cluster writes, or empty
	cmd    *exec.Cmd
	client rueidis.Client // not used for measurements
}

// startServer starts a redis-server, behind a wrapper such as taskset if one is given.
func startServer(wrapper ...string) (*server, error) {
	return startServerWith(nil, wrapper...)
}

// startServerWith is startServer with more arguments for redis-server.
func startServerWith(config []string, wrapper ...string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	program := cmp.Or(os.Getenv("EXACTLIMIT_REDIS_SERVER"), "redis-server")
	words := append(slices.Clone(wrapper), program, "--bind", "127.0.0.1", "--port", port,
		"--save", "", "--appendonly", "no", "--dir", os.TempDir())
	words = append(words, config...)
	log := new(bytes.Buffer)
	s := &server{addr: "127.0.0.1:" + port, cmd: exec.Command(words[0], words[1:]...)}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: install redis-server 7.0 or later", err)
	}
	for range 200 {
		s.client, err = rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{s.addr}, DisableCache: true, ForceSingleClient: true,
		})
		if err == nil {
			return s, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("redis-server does not respond: %w\n%s", err, log)
}

func (s *server) stop() {
	if s.client != nil {
		s.client.Close()
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	if s.file != "" {
		os.Remove(s.file)
	}
}

func (s *server) do(words ...string) rueidis.RedisResult {
	return s.client.Do(context.Background(), s.client.B().Arbitrary(words...).Build())
}

func (s *server) flush() error { return s.do("FLUSHALL", "SYNC").Error() }

func (s *server) version() string {
	info, _ := s.do("INFO", "server").ToString()
	_, after, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(after, "\r")
	return version
}

// freePort returns a port on which no process listens now.
func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), nil
}

// servers is one Redis, or the masters of a Redis Cluster.
type servers []*server

const slots = 16384

// startCluster starts a Redis Cluster whose masters have equal shares of the slots.
func startCluster(masters int) (servers, error) {
	var all servers
	for i := range masters {
		bus, err := freePort()
		if err != nil {
			all.stop()
			return nil, err
		}
		file := fmt.Sprintf("exactlimit-bench-%d-%s.conf", os.Getpid(), bus)
		s, err := startServerWith([]string{"--cluster-enabled", "yes", "--cluster-port", bus,
			"--cluster-config-file", file})
		if err != nil {
			all.stop()
			return nil, err
		}
		s.file = filepath.Join(os.TempDir(), file)
		all = append(all, s)
		host, port, _ := strings.Cut(s.addr, ":")
		err = s.do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters),
			strconv.Itoa((i+1)*slots/masters-1)).Error()
		if err == nil && i > 0 {
			err = all[0].do("CLUSTER", "MEET", host, port, bus).Error()
		}
		if err != nil {
			all.stop()
			return nil, err
		}
	}
	for deadline := time.Now().Add(30 * time.Second); !all.agree(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			all.stop()
			return nil, errors.New("the nodes of the cluster do not agree")
		}
	}
	return all, nil
}

// agree reports whether every master knows the others and the masters of all slots.
func (all servers) agree() bool {
	for _, s := range all {
		info, err := s.do("CLUSTER", "INFO").ToString()
		size := fmt.Sprintf("cluster_size:%d\r", len(all))
		if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, size) {
			return false
		}
	}
	return true
}

func (all servers) addrs() []string {
	var addrs []string
	for _, s := range all {
		addrs = append(addrs, s.addr)
	}
	return addrs
}

// flush deletes all keys and statistics before it returns, so that no turn pays for the keys of the previous one.
func (all servers) flush() error {
	for _, s := range all {
		if err := errors.Join(s.flush(), s.do("CONFIG", "RESETSTAT").Error()); err != nil {
			return err
		}
	}
	return nil
}

// keys returns how many keys were written since flush: those that exist and those that have expired.
func (all servers) keys() (int64, error) {
	var sum int64
	for _, s := range all {
		n, err := s.do("DBSIZE").AsInt64()
		if err != nil {
			return 0, err
		}
		info, err := s.do("INFO", "stats").ToString()
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(info, "\nexpired_keys:")
		digits, _, _ := strings.Cut(after, "\r")
		expired, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("INFO stats of Redis: %w", err)
		}
		sum += n + expired
	}
	return sum, nil
}

func (all servers) stop() {
	for _, s := range all {
		s.stop()
	}
}

// redisCPU returns the CPU time that servers have used. It opens its own connections, so that the measured process
// needs no client.
func redisCPU(addrs []string) (time.Duration, error) {
	var sum time.Duration
	for _, addr := range addrs {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(conn, "INFO cpu\r\nQUIT\r\n"); err != nil {
			return 0, err
		}
		text, err := io.ReadAll(conn)
		if err != nil {
			return 0, err
		}
		found := 0
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_sys" || name == "used_cpu_user" {
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, err
				}
				sum += time.Duration(seconds * float64(time.Second))
				found++
			}
		}
		if found != 2 {
			return 0, fmt.Errorf("INFO cpu of Redis returned %q", text)
		}
	}
	return sum, nil
}
