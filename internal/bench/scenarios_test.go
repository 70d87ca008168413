package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The test binary is its own child process, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-child" {
		var j job
		err := json.Unmarshal([]byte(os.Args[2]), &j)
		if err = errors.Join(err, j.run(os.Stdin, os.Stdout)); err != nil {
			fail(err)
		}
		return
	}
	os.Exit(m.Run())
}

// inThisProcess runs a job without a child process.
func inThisProcess(j job, _ string, result any) error {
	var out bytes.Buffer
	if err := j.run(strings.NewReader(""), &out); err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), result)
}

// The scenarios without Redis run, so that an incompatible version of a peer fails here.
func TestContendersInProcess(t *testing.T) {
	for _, s := range scenarios() {
		if s.masters > 0 {
			continue
		}
		if err := s.check(nil, inThisProcess); err != nil {
			t.Error(err)
		}
		r, err := s.play(nil, 1, 20*time.Millisecond, 1, inThisProcess, func(string) {})
		if err != nil || len(r.Rows) != len(s.contenders) {
			t.Error(s.name, err)
		}
	}
}

func scenarioNamed(t *testing.T, name string) scenario {
	t.Helper()
	all := scenarios()
	i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
	if i < 0 {
		t.Fatal("no scenario ", name)
	}
	return all[i]
}

// Each kind of scenario runs briefly, in child processes and on real servers.
func TestScenariosOnRedis(t *testing.T) {
	redis, err := startServer()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.stop()
	for _, c := range []struct {
		name       string
		contenders []string // besides exactlimit
	}{
		{"hot", []string{"redis_rate+AP", "redis_rate+AP8", "ulule/limiter+AP", "ulule/limiter+AP8"}},
		{"service", []string{"ulule/limiter", "rueidislimiter", "bare Gin"}},
		{"overload/3ms", []string{"rueidislimiter"}},
		{"cluster", []string{"redis_rate", "redis_rate+AP", "redis_rate+AP8", "rueidislimiter"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scenarioNamed(t, c.name)
			s.choose(func(name string) bool { return slices.Contains(c.contenders, name) }, contender{})
			on := servers{redis}
			if s.masters > 1 {
				if on, err = startCluster(s.masters); err != nil {
					t.Fatal(err)
				}
				defer on.stop()
			}
			if err := s.check(on, inChild); err != nil {
				t.Fatal(err)
			}
			r, err := s.play(on, 1, 100*time.Millisecond, 10, inChild, func(line string) { t.Log(line) })
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Rows) != 1+len(c.contenders) {
				t.Errorf("%d rows", len(r.Rows))
			}
			for _, x := range r.Rows {
				if x.Requests == 0 || x.P99 == 0 || x.RedisCPU <= 0 {
					t.Errorf("%+v", x)
				}
			}
		})
	}
}

// A turn that did not measure what it should is an error.
func TestValidate(t *testing.T) {
	redis, err := startServer()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.stop()
	s, on := scenarioNamed(t, "hot"), servers{redis}
	if err := on.flush(); err != nil {
		t.Fatal(err)
	}
	for want, turn := range map[string]turn{
		"no key":          {Requests: 1000},
		"denials":         {Requests: 1000, Denied: 1},
		"before":          {Requests: 1000, DeniedBefore: 1},
		"without Redis":   {Requests: 1000, Local: 501},
		"0 calls":         {},
		"no route to you": {Requests: 1000, Failed: 1000, Failure: "no route to you"},
	} {
		if err := s.validate(turn, on, s.contenders[0]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", turn, err, want)
		}
	}
	// A key that has expired was also written.
	if err := redis.do("SET", "a", "1", "PX", "1").Error(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, err := redis.do("EXISTS", "a").AsInt64(); err != nil || time.Now().After(deadline) {
			t.Fatal(n, err)
		} else if n == 0 {
			break
		}
	}
	if err := s.validate(turn{Requests: 1000, Local: 10}, on, s.contenders[0]); err != nil {
		t.Error(err)
	}
}

// exactlimit is always chosen, and a build for another checkout is the second contender.
func TestChoose(t *testing.T) {
	for _, c := range []struct {
		pattern string
		other   contender
		want    []string
	}{
		{"none", contender{}, []string{ours}},
		{"AP8", contender{}, []string{ours, "redis_rate+AP8", "ulule/limiter+AP8"}},
		{"vnmchuo", contender{name: "other", exe: "/tmp/bench"}, []string{ours, "other", "vnmchuo"}},
	} {
		s := scenarioNamed(t, "hot")
		s.choose(func(name string) bool { return strings.Contains(name, c.pattern) }, c.other)
		var got []string
		for _, x := range s.contenders {
			got = append(got, x.name)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, not %q", c.pattern, got, c.want)
		}
		if j := s.job(s.contenders[min(1, len(got)-1)], nil, ""); c.other.exe != "" && j.Contender != ours {
			t.Errorf("a build for another checkout gets a job for %q", j.Contender)
		}
	}
}

func TestURL(t *testing.T) {
	for want, addrs := range map[string][]string{
		"redis://a:1":                   {"a:1"},
		"redis://a:1?addr=b:2&addr=c:3": {"a:1", "b:2", "c:3"},
	} {
		if got := (setup{addrs: addrs}).url(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// Responses are read completely, in however many pieces they arrive. Only 200 and 429 are valid.
func TestSend(t *testing.T) {
	for _, c := range []struct {
		response  string
		admitted  bool
		remaining int
		failure   string
	}{
		{"HTTP/1.1 200 OK\r\nRateLimit: \"bench\";r=41;t=3\r\nContent-Length: 2\r\n\r\nok", true, 41, ""},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Ratelimit-Remaining: 7\r\n\r\nok", true, 7, ""},
		{"HTTP/1.1 429 Too Many Requests\r\nX-Ratelimit-Remaining: 0\r\nContent-Length: 12\r\n\r\nNot so fast!",
			false, 0, ""},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false, 0, "503"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", false, 0, "no"},
		{"HTTP/1.1 200 OK\r\n\r\nok", false, 0, "Content-Length"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", false, 0, io.EOF.Error()},
	} {
		for _, piece := range []int{1, 7, 4096} {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				if _, err := server.Read(make([]byte, 4096)); err != nil {
					return
				}
				for text := range slices.Chunk([]byte(c.response), piece) {
					if _, err := server.Write(text); err != nil {
						return
					}
				}
			}()
			conn := &conn{Conn: client}
			admitted, err := conn.send(request("/", "key-1"))
			if admitted != c.admitted || (err != nil) != (c.failure != "") ||
				!strings.Contains(fmt.Sprint(err), c.failure) {
				t.Errorf("%q: %v %v", c.response, admitted, err)
			}
			if left, err := conn.remaining(); c.failure == "" && (left != c.remaining || err != nil) {
				t.Errorf("%q: %d left: %v", c.response, left, err)
			}
			conn.close()
		}
	}
}
