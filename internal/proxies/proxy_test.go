package proxies

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// proxy is a program in front of a service, with its documented configuration.
type proxy struct {
	name     string // of the program
	language string // of its configuration in the documentation

	// config returns a complete configuration with a snippet, on loopback, in front of services.
	config func(snippet, dir string, port int, services []string) string
	// arguments returns the arguments with which the program runs a configuration in the foreground, as one process.
	arguments func(file, dir string) []string
}

var nginx = proxy{
	"nginx", "nginx",
	func(snippet, dir string, port int, services []string) string {
		var servers strings.Builder
		for _, service := range services {
			fmt.Fprintf(&servers, "server %s;\n", service)
		}
		temp := ""
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			temp += fmt.Sprintf("%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
		}
		return "daemon off;\nmaster_process off;\nerror_log stderr;\npid " + dir + "/pid;\nevents {}\n" +
			"http {\naccess_log off;\n" + temp + strings.NewReplacer(
			"server 127.0.0.1:8080;\n", servers.String(),
			"listen 80;", fmt.Sprintf("listen 127.0.0.1:%d;", port),
			"listen [::]:80;", fmt.Sprintf("listen [::1]:%d;", port),
		).Replace(snippet) + "}\n"
	},
	func(file, dir string) []string { return []string{"-c", file, "-p", dir, "-e", "stderr"} },
}

var haproxy = proxy{
	"haproxy", "haproxy",
	func(snippet, _ string, port int, services []string) string {
		var servers strings.Builder
		for i, service := range services {
			fmt.Fprintf(&servers, "    server app%d %s\n", i, service)
		}
		return "defaults\n    timeout connect 10s\n    timeout client 10s\n    timeout server 10s\n\n" +
			strings.NewReplacer(
				"bind :80", fmt.Sprintf("bind 127.0.0.1:%d,[::1]:%[1]d", port),
				"    server app1 127.0.0.1:8080\n", servers.String(),
			).Replace(snippet)
	},
	func(file, _ string) []string { return []string{"-db", "-f", file} },
}

var apache = proxy{
	"apache2", "apache",
	func(snippet, dir string, port int, services []string) string {
		modules := ""
		for _, name := range []string{"mpm_event", "authz_core", "proxy", "proxy_http"} {
			modules += fmt.Sprintf("LoadModule %s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", name)
		}
		return modules + fmt.Sprintf("ServerName localhost\nDefaultRuntimeDir %s\n"+
			"PidFile %[1]s/pid\nErrorLog /dev/stderr\n"+
			"Listen 127.0.0.1:%d\nListen [::1]:%[2]d\n", dir, port) + strings.NewReplacer(
			"*:80", fmt.Sprint("*:", port),
			"http://127.0.0.1:8080/", fmt.Sprintf("http://%s/", services[0]),
		).Replace(snippet)
	},
	func(file, _ string) []string { return []string{"-X", "-f", file} },
}

var caddy = proxy{
	"caddy", "caddyfile",
	func(snippet, _ string, port int, services []string) string {
		return "{\nadmin off\nauto_https off\n}\n" + strings.NewReplacer(
			":80 {", fmt.Sprintf(":%d {\nbind 127.0.0.1 [::1]", port),
			"127.0.0.1:8080", services[0],
		).Replace(snippet)
	},
	func(file, _ string) []string { return []string{"run", "--config", file, "--adapter", "caddyfile"} },
}

// snippet returns the documented configuration of the proxy.
func (p proxy) snippet(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../ginlimit/README.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?ms)^```" + p.language + "\n(.*?)^```").FindSubmatch(readme)
	require.NotNil(t, block, "the documentation has no snippet for %s", p.name)
	return string(block[1])
}

// start runs the proxy with a snippet in front of services until the end of the test, and returns its port.
func (p proxy) start(t *testing.T, snippet string, services ...string) (port int) {
	t.Helper()
	program := p.find(t)
	dir := t.TempDir()
	for range 5 { // another process may take the port before the proxy does
		port = nextPort()
		file, log := filepath.Join(dir, "config"), new(bytes.Buffer)
		require.NoError(t, os.WriteFile(file, []byte(p.config(snippet, dir, port, services)), 0o600))
		cmd := exec.Command(program, p.arguments(file, dir)...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir) // Caddy writes there
		redistest.DieWithParent(cmd)
		require.NoError(t, cmd.Start())
		exited := make(chan struct{})
		go func() {
			cmd.Wait()
			close(exited)
		}()
		t.Cleanup(func() {
			cmd.Process.Kill() // returns an error if it has ended already
			<-exited
			if t.Failed() {
				t.Logf("log of %s:\n%s", p.name, log)
			}
		})
		if accepts(port, exited) {
			return port
		}
	}
	t.Fatalf("%s does not start", p.name)
	return 0
}

// ports counts up from a random number below the ports that systems assign automatically. Another process that
// listens on such a port, or connects from it, would be mistaken for the proxy.
var ports = func() *atomic.Int32 {
	var first atomic.Int32
	first.Store(20_000 + rand.Int32N(8_000))
	return &first
}()

// nextPort returns a port on which no process listens.
func nextPort() int {
	for {
		port := int(ports.Add(1))
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			l.Close()
			return port
		}
	}
}

// accepts reports whether port accepts connections before the process has exited.
func accepts(port int, exited <-chan struct{}) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			conn.Close()
			return true
		}
		select {
		case <-exited:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// find returns the path of the program. Debian installs servers outside of the usual PATH.
func (p proxy) find(t *testing.T) string {
	t.Helper()
	for _, name := range []string{p.name, "/usr/sbin/" + p.name, "/usr/local/sbin/" + p.name} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", p.name)
	return ""
}
