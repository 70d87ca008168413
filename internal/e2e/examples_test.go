// Package e2e tests what users run: the example servers as processes, and the snippets of the README.
package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// build compiles packages in dir, and returns the paths of the binaries.
func build(t *testing.T, dir string, packages ...string) []string {
	t.Helper()
	var binaries []string
	for i, pkg := range packages {
		binary := filepath.Join(t.TempDir(), fmt.Sprint("server", i))
		cmd := exec.Command("go", "build", "-o", binary, pkg)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		binaries = append(binaries, binary)
	}
	return binaries
}

// buildExamples compiles the example of each adapter.
func buildExamples(t *testing.T) []string {
	var packages []string
	for _, adapter := range adapters.All {
		packages = append(packages, "./"+adapter.Dir+"/example")
	}
	return build(t, "../..", packages...)
}

// server is a running process, with the line in which it printed its address.
type server struct {
	addr string
	line string
	cmd  *exec.Cmd
}

// run starts a server, which runs until the end of the test.
func run(t *testing.T, binary string, args ...string) *server {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "REDIS_URL=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	reader := bufio.NewReader(out)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	go io.Copy(io.Discard, reader)
	addr := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	require.NotEmpty(t, addr, line)
	return &server{addr, line, cmd}
}

// runExample starts an example server on a free port.
func runExample(t *testing.T, binary string, args ...string) *server {
	return run(t, binary, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
}

// exchange sends a request on a new connection, and returns the response without its date.
func (s *server) exchange(t *testing.T, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	defer conn.Close()
	method, rest, _ := strings.Cut(request, " ")
	target, header, _ := strings.Cut(rest, "\n")
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n", method, target)
	if header != "" {
		fmt.Fprintf(conn, "%s\r\n", header)
	}
	fmt.Fprint(conn, "\r\n")
	response, err := io.ReadAll(conn)
	require.NoError(t, err)
	return regexp.MustCompile(`(?m)^Date: .*\r\n`).ReplaceAllString(string(response), "")
}

// All examples send the same bytes for the same requests. Only numbers of seconds may differ, because they depend on
// the speed of the machine; adaptertest compares them on a fake clock.
func TestExamplesAreIdentical(t *testing.T) {
	redistest.Long(t)
	var servers []*server
	for _, binary := range buildExamples(t) {
		servers = append(servers, runExample(t, binary))
	}
	assert.Contains(t, servers[0].line, "logs kept in this process")
	seconds := regexp.MustCompile(`(;t=|Retry-After: )\d+`)
	requests := []string{"GET /healthz", "GET /api/report", "POST /api/login", "GET /api/report\nX-API-Key: ann",
		"GET /api/report\nX-API-Key: pro-ann"}
	for range 11 {
		requests = append(requests, "GET /api/search", "POST /api/login", "GET /api/report\nX-API-Key: bob")
	}
	for range 80 {
		requests = append(requests, "GET /api/report\nX-API-Key: pro-bob")
	}
	statuses := map[string]int{}
	for _, request := range requests {
		first := servers[0].exchange(t, request)
		for i, server := range servers[1:] {
			response := server.exchange(t, request)
			require.Equal(t, seconds.ReplaceAllString(first, "${1}N"), seconds.ReplaceAllString(response, "${1}N"),
				"%s of %s", request, adapters.All[i+1].Dir)
		}
		path, _, _ := strings.Cut(request, "\n")
		statuses[path+" "+first[9:12]]++
	}
	assert.Equal(t, map[string]int{
		"GET /healthz 200":    1,
		"GET /api/search 200": 10, "GET /api/search 429": 1,
		"POST /api/login 200": 5, "POST /api/login 429": 7,
		// 3 for bob, 30 for pro-bob, and one each for ann and pro-ann. The last ones of pro-bob are denied by "api",
		// which has admitted 100 by then.
		"GET /api/report 200": 35, "GET /api/report 401": 1, "GET /api/report 429": 58,
	}, statuses)
}

// Processes of all frameworks on one Redis together admit exactly Max requests of a burst, and the next one after
// Retry-After.
func TestProcessesShareLimits(t *testing.T) {
	redistest.Long(t)
	redis := redistest.Start(t)
	var servers []*server
	for _, binary := range buildExamples(t) {
		for range 2 {
			servers = append(servers, runExample(t, binary, "-redis", redis.URL()))
		}
	}
	assert.Contains(t, servers[0].line, "logs kept in Redis at "+redis.Addr)

	burst := func() (admitted int, retry time.Duration) {
		var passed atomic.Int64
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				r, err := http.Get("http://" + servers[i%len(servers)].addr + "/api/search")
				if !assert.NoError(t, err) {
					return
				}
				r.Body.Close()
				switch r.StatusCode {
				case http.StatusOK:
					passed.Add(1)
				case http.StatusTooManyRequests:
					seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
					assert.NoError(t, err)
					mu.Lock()
					retry = time.Duration(seconds) * time.Second
					mu.Unlock()
				default:
					t.Error(r.Status)
				}
			})
		}
		all.Wait()
		return int(passed.Load()), retry
	}
	admitted, retry := burst()
	assert.Equal(t, 10, admitted)
	require.NotZero(t, retry)
	time.Sleep(retry)
	r, err := http.Get("http://" + servers[1].addr + "/api/search")
	require.NoError(t, err)
	r.Body.Close()
	assert.Equal(t, http.StatusOK, r.StatusCode, "after Retry-After of %v", retry)
	http.DefaultClient.CloseIdleConnections()
}

// On a signal, the examples exit with status 0. With an invalid flag, they print an error without secrets and fail.
func TestExamplesStop(t *testing.T) {
	redistest.Long(t)
	for i, binary := range buildExamples(t) {
		t.Run(adapters.All[i].Dir, func(t *testing.T) {
			for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
				s := runExample(t, binary)
				s.exchange(t, "GET /healthz")
				require.NoError(t, s.cmd.Process.Signal(sig))
				require.NoError(t, s.cmd.Wait(), sig)
			}

			var stderr bytes.Buffer
			cmd := exec.Command(binary, "-addr", "127.0.0.1:0", "-redis", "http://ann:hunter2@localhost")
			cmd.Stderr = &stderr
			assert.Error(t, cmd.Run())
			assert.Contains(t, stderr.String(), "must begin with redis://")
			assert.NotContains(t, stderr.String(), "hunter2")
		})
	}
}

// If Redis is down, the examples start and limit in-process, and use Redis as soon as it is up.
func TestExamplesStartWithoutRedis(t *testing.T) {
	redistest.Long(t)
	redis := redistest.Start(t)
	redis.Kill()
	for i, binary := range buildExamples(t) {
		t.Run(adapters.All[i].Dir, func(t *testing.T) {
			s := runExample(t, binary, "-redis", redis.URL())
			assert.Contains(t, s.exchange(t, "GET /healthz"), "HTTP/1.1 200 OK")
			for range 10 {
				assert.Contains(t, s.exchange(t, "GET /api/search"), "HTTP/1.1 200 OK")
			}
			assert.Contains(t, s.exchange(t, "GET /api/search"), "HTTP/1.1 429 Too Many Requests")
			require.NoError(t, redis.Start())
			defer redis.Kill()
			client := redis.Client(t)
			require.Eventually(t, func() bool {
				s.exchange(t, "GET /api/search")
				logs, err := redistest.Do(t, client, "DBSIZE").AsInt64()
				return err == nil && logs > 0
			}, 10*time.Second, 50*time.Millisecond)
		})
	}
}
