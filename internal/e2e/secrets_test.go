package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/adapters"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// The credentials of clients are only in their requests: not in the commands, the files or the memory of Redis, and not
// in responses, logs and errors, whether requests are admitted, denied or malformed, and whether Redis is up or down.
func TestSecretsStayHere(t *testing.T) {
	redis := redistest.Start(t, "rdbcompression no", "appendonly yes")
	client := redis.Client(t)
	commands := monitor(t, redis.Addr)
	out := captureOutput(t)

	limiter, err := core.Connect(redis.URL())
	require.NoError(t, err)
	defer limiter.Close()
	gin.DefaultWriter, gin.DefaultErrorWriter = out, out
	var apps []http.Handler
	for _, adapter := range adapters.All {
		apps = append(apps, adapter.Keys(limiter, core.PerHour(adapter.Dir, 1), nil, out))
	}
	sendAll := func(secret string) {
		for _, app := range apps {
			send := func(header, value, target string) {
				r := httptest.NewRequest("GET", target, nil)
				r.Header.Add(header, value)
				w := httptest.NewRecorder()
				app.ServeHTTP(w, r)
				fmt.Fprintln(out, w.Code, w.Header(), w.Body)
			}
			for range 3 { // admitted, denied by Redis, and denied by the cache
				send("X-API-Key", secret+"-header", "/header")
				send("Authorization", "Bearer "+secret, "/bearer")
				send("Cookie", "session="+secret, "/cookie")
				send("Accept", "*/*", "/query?api_key="+secret)
				send("Accept", "*/*", "/path/"+secret)
				send("X-API-Key", secret+"-joined", "/join")
				send("X-API-Key", secret+"-first", "/first")
			}
			send("X-API-Key", secret+"-"+strings.Repeat("k", 10_000), "/header")
			send("Authorization", "Bearer "+secret+" "+secret, "/bearer")
			send("Authorization", "Basic "+secret, "/bearer")
			send("X-API-Key", secret+"-mistake", "/mistake")
		}
	}
	sendAll("hunter2-in-redis")
	redistest.Do(t, client, "SAVE")
	places := map[string][]byte{
		"the commands": commands(),
		"the files":    files(t, redistest.Do(t, client, "CONFIG", "GET", "dir")),
		"the memory":   memory(t, redistest.Do(t, client, "INFO", "server")),
	}
	for place, text := range places {
		if len(text) > 0 {
			assert.True(t, bytes.Contains(text, []byte("header:x-api-key:")),
				"the hash is in %s, so the search works", place)
		}
	}
	redis.Kill()
	sendAll("hunter2-without-redis")
	limiter.Close()
	sendAll("hunter2-closed")
	places["the responses and logs"] = []byte(out.String())
	for _, status := range []string{"200", "429", "400", "401", "500", "503"} {
		assert.True(t, strings.Contains(out.String(), "\n"+status+" map"), "a response with %s", status)
	}
	for place, text := range places {
		if i := bytes.Index(text, []byte("hunter2")); i >= 0 {
			t.Errorf("in %s: %q", place, text[max(0, i-100):min(len(text), i+100)])
		}
	}
}

// monitor records the commands of Redis until the function that it returns is called, which returns them.
func monitor(t *testing.T, addr string) func() []byte {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "MONITOR\r\n")
	lines := bufio.NewReader(conn)
	ok, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", ok)
	return func() []byte {
		end, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer end.Close()
		fmt.Fprint(end, "ECHO the-end\r\n")
		var all []byte
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for !bytes.Contains(all, []byte(`"the-end"`)) {
			line, err := lines.ReadBytes('\n')
			require.NoError(t, err)
			all = append(all, line...)
		}
		return all
	}
}

// files returns the contents of all files in the directory of Redis.
func files(t *testing.T, config rueidis.RedisResult) []byte {
	dir, err := config.AsStrMap()
	require.NoError(t, err)
	all := new(bytes.Buffer)
	require.NoError(t, filepath.WalkDir(dir["dir"], func(path string, file os.DirEntry, err error) error {
		if err != nil || file.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	}))
	return all.Bytes()
}

// memory returns the writable memory of Redis, or nil if this process may not read it.
func memory(t *testing.T, info rueidis.RedisResult) []byte {
	text, err := info.ToString()
	require.NoError(t, err)
	pid := regexp.MustCompile(`process_id:(\d+)`).FindStringSubmatch(text)[1]
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	if err != nil {
		t.Log("the memory of Redis cannot be read: ", err)
		return nil
	}
	mem, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		t.Log("the memory of Redis cannot be read: ", err)
		return nil
	}
	defer mem.Close()
	all := new(bytes.Buffer)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights)
		if strings.HasPrefix(rights, "rw") { // writable
			io.Copy(all, io.NewSectionReader(mem, from, to-from))
		}
	}
	return all.Bytes()
}

// output is a buffer to which many goroutines may write.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// captureOutput returns what is logged until the end of the test.
func captureOutput(t *testing.T) *output {
	out, before := new(output), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.SetOutput(out)
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(os.Stderr)
	})
	return out
}
