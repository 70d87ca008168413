// Package redistest runs real Redis servers for tests, on free ports of loopback. They leave no files and no processes.
//
// A test binary whose tests use it has
//
//	func TestMain(m *testing.M) { redistest.Main(m) }
//
// Most tests use the server that all tests of the binary share, see Shared, each under its own Prefix. A test that
// breaks its server, or needs other settings, starts its own.
package redistest

import (
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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"
)

// Server is a redis-server process.
type Server struct {
	Addr    string // host:port
	TLSAddr string // where it speaks TLS, if its configuration has the lines that TLS returns

	dir      string
	conf     string
	sentinel bool
	clock    *clock // nil unless StartWithClock has started it
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended
}

// program returns the server program: redis-server, or a compatible one, such as valkey-server.
func program() string {
	return cmp.Or(os.Getenv("EXACTLIMIT_REDIS_SERVER"), "redis-server")
}

const missing = `redis-server is not installed, and these tests are about what a real one does. Install it:
	Debian, Ubuntu   apt-get install redis-server
	Fedora           dnf install redis
	Alpine           apk add redis
	macOS            brew install redis
or run ./internal/test.sh, which does so where it can.`

var (
	sharedMu sync.Mutex
	shared   *Server
)

// Long skips a test that takes long if the tests run with -short. StartCluster calls it, as do other functions that
// take seconds.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

// Main runs the tests of a binary, stops the shared server, and fails if goroutines are left over.
func Main(m *testing.M) {
	code := m.Run()
	if shared != nil {
		shared.Kill()
	}
	if code == 0 {
		// These goroutines of closed rueidis clients end by themselves: a cluster client closes connections that it has
		// replaced after five seconds, and asks for the nodes within a second after it has lost one.
		if err := goleak.Find(
			goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
			goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient).redirectOrNew.func1"),
			goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Shared returns the server of this test binary, which starts with the first call. Tests may not flush or stop it.
func Shared(t testing.TB) *Server {
	t.Helper()
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared == nil {
		shared = start(t, &Server{dir: os.TempDir()}, nil) // it writes nothing
	}
	return shared
}

// Start runs a server for one test, with further lines of configuration.
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	s := start(t, &Server{dir: t.TempDir()}, config)
	t.Cleanup(s.Kill)
	return s
}

func start(t testing.TB, s *Server, config []string) *Server {
	t.Helper()
	if _, err := exec.LookPath(program()); err != nil {
		if name := os.Getenv("EXACTLIMIT_REDIS_SERVER"); name != "" {
			t.Fatalf("EXACTLIMIT_REDIS_SERVER asks for %s: %v", name, err)
		}
		t.Fatal(missing)
	}
	var err error
	for range 5 { // another process may take the port before the server does
		port := FreePort(t)
		s.Addr = fmt.Sprint("127.0.0.1:", port)
		s.conf = strings.Join(slices.Concat([]string{
			"bind 127.0.0.1", fmt.Sprint("port ", port), "dir " + s.dir, `save ""`, "daemonize no",
			"repl-diskless-sync-delay 0", // or a replica has to wait for others that may come
		}, config), "\n") + "\n"
		if speaksTLS(config) {
			port := FreePort(t)
			s.TLSAddr = fmt.Sprint("127.0.0.1:", port)
			s.conf += fmt.Sprintln("tls-port", port)
		}
		if err = s.Start(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// FreePort returns a port on which no process listens now.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Start starts the server again after Kill, on the same port, with the data that its files hold.
func (s *Server) Start() error {
	log := new(strings.Builder)
	cmd := exec.Command(program(), "-")
	cmd.Stdin = strings.NewReader(s.conf)
	if s.sentinel { // a sentinel changes its configuration file
		file := filepath.Join(s.dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(s.conf), 0o600); err != nil {
			return err
		}
		cmd = exec.Command(program(), file, "--sentinel")
	}
	if s.clock != nil {
		cmd.Env = append(os.Environ(), s.clock.env...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	DieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.exited = cmd, make(chan struct{})
	go func() {
		cmd.Wait()
		close(s.exited)
	}()
	timeout := time.After(time.Minute)
	for !s.ready() {
		select {
		case <-s.exited:
			return fmt.Errorf("the server on %s ends at once:\n%s", s.Addr, log)
		case <-timeout:
			s.Kill()
			return fmt.Errorf("the server on %s does not answer:\n%s", s.Addr, log)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// StartEmpty starts the server again after Kill, without its data, as if its disk had been replaced. What it has
// recorded before is kept for Records.
func (s *Server) StartEmpty() error {
	if err := os.Remove(filepath.Join(s.dir, "dump.rdb")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lives, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir*"))
	if err != nil {
		return err
	}
	current := filepath.Join(s.dir, "appendonlydir")
	err = os.Rename(current, fmt.Sprintf("%s.%04d", current, len(lives)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.Start()
}

// ready reports whether this server answers on the port, and not another one, and has read its data.
func (s *Server) ready() bool {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprint(conn, "INFO server\r\nINFO persistence\r\nQUIT\r\n")
	answer, _ := io.ReadAll(conn)
	ours := strings.Contains(string(answer), fmt.Sprintf("process_id:%d\r\n", s.cmd.Process.Pid))
	return ours && !strings.Contains(string(answer), "loading:1") || strings.HasPrefix(string(answer), "-NOAUTH")
}

// Kill ends the server at once, like a crash. Its files stay for the next Start.
func (s *Server) Kill() {
	s.cmd.Process.Kill() // returns an error if it has ended already
	<-s.exited
}

// URL returns the address as a URL for core.Connect.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a client, which is closed at the end of the test.
func (s *Server) Client(t testing.TB) rueidis.Client {
	t.Helper()
	return newClient(t, s.Addr)
}

func newClient(t testing.TB, addrs ...string) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:  addrs,
		DisableCache: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Do runs a command, given by its words, and returns the reply.
func Do(t testing.TB, client rueidis.Client, words ...string) rueidis.RedisResult {
	t.Helper()
	result := client.Do(context.Background(), client.B().Arbitrary(words[0]).Args(words[1:]...).Build())
	if err := result.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", words, err)
	}
	return result
}

var prefixes atomic.Uint64

// Prefix returns a prefix for keys that no other test uses.
func Prefix() string {
	return fmt.Sprintf("test-%d-%d", os.Getpid(), prefixes.Add(1))
}
