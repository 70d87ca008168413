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

// What clients send to say who they are is nowhere but in their requests: not in the commands that Redis gets, not in what
// it keeps, nor in its memory, and not in answers, logs and errors, be they admitted, denied, malformed or without a Redis.
func TestSecretsStayHere(t *testing.T) {
	redis := redistest.Start(t, "rdbcompression no", "appendonly yes")
	client := redis.Client(t)
	commands := monitor(t, redis.Addr)
	said := captureOutput(t)

	limiter, err := core.Connect(redis.URL())
	require.NoError(t, err)
	defer limiter.Close()
	gin.DefaultWriter, gin.DefaultErrorWriter = said, said
	var apps []http.Handler
	for _, adapter := range adapters.All {
		apps = append(apps, adapter.Keys(limiter, core.PerHour(adapter.Dir, 1), nil, said))
	}
	askAll := func(secret string) {
		for _, app := range apps {
			ask := func(header, value, target string) {
				r := httptest.NewRequest("GET", target, nil)
				r.Header.Add(header, value)
				w := httptest.NewRecorder()
				app.ServeHTTP(w, r)
				fmt.Fprintln(said, w.Code, w.Header(), w.Body)
			}
			for range 3 { // admitted, denied by Redis, and denied from memory
				ask("X-API-Key", secret+"-header", "/header")
				ask("Authorization", "Bearer "+secret, "/bearer")
				ask("Cookie", "session="+secret, "/cookie")
				ask("Accept", "*/*", "/query?api_key="+secret)
				ask("Accept", "*/*", "/path/"+secret)
				ask("X-API-Key", secret+"-joined", "/join")
				ask("X-API-Key", secret+"-first", "/first")
			}
			ask("X-API-Key", secret+"-"+strings.Repeat("k", 10_000), "/header")
			ask("Authorization", "Bearer "+secret+" "+secret, "/bearer")
			ask("Authorization", "Basic "+secret, "/bearer")
			ask("X-API-Key", secret+"-mistake", "/mistake")
		}
	}
	askAll("hunter2-in-redis")
	redistest.Do(t, client, "SAVE")
	sought := map[string][]byte{
		"the commands": commands(),
		"the files":    files(t, redistest.Do(t, client, "CONFIG", "GET", "dir")),
		"the memory":   memory(t, redistest.Do(t, client, "INFO", "server")),
	}
	for where, text := range sought {
		if len(text) > 0 {
			assert.True(t, bytes.Contains(text, []byte("header:x-api-key:")), "the hash is in %s, so the search finds what is there", where)
		}
	}
	redis.Kill()
	askAll("hunter2-without-redis")
	limiter.Close()
	askAll("hunter2-closed")
	sought["all that was said"] = []byte(said.String())
	for _, status := range []string{"200", "429", "400", "401", "500", "503"} {
		assert.True(t, strings.Contains(said.String(), "\n"+status+" map"), "an answer with %s", status)
	}
	for where, text := range sought {
		if i := bytes.Index(text, []byte("hunter2")); i >= 0 {
			t.Errorf("in %s: %q", where, text[max(0, i-100):min(len(text), i+100)])
		}
	}
}

// monitor returns what Redis was told, from now on until it is called.
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

// files returns what is in the folder of a Redis.
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

// memory returns all that a Redis has in its memory; nothing where nobody may look.
func memory(t *testing.T, info rueidis.RedisResult) []byte {
	text, err := info.ToString()
	require.NoError(t, err)
	pid := regexp.MustCompile(`process_id:(\d+)`).FindStringSubmatch(text)[1]
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	if err != nil {
		t.Log("the memory of Redis is not looked at: ", err)
		return nil
	}
	mem, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		t.Log("the memory of Redis is not looked at: ", err)
		return nil
	}
	defer mem.Close()
	all := new(bytes.Buffer)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights)
		if strings.HasPrefix(rights, "rw") { // what it has written
			io.Copy(all, io.NewSectionReader(mem, from, to-from))
		}
	}
	return all.Bytes()
}

// output collects what is written, from wherever.
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

// captureOutput collects what is logged until the end of the test.
func captureOutput(t *testing.T) *output {
	said, before := new(output), slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.SetOutput(said)
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(os.Stderr)
	})
	return said
}
