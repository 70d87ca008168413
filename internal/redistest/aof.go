package redistest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// AppendOnly is the configuration of a server whose Admissions can be read.
var AppendOnly = []string{"appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0"}

// Admission is one entry that the server itself recorded as added to a log.
type Admission struct {
	At int64 // microseconds of the server's clock
	ID string
}

// Admissions reads from the server's append-only file what it added to each log, in the order in which it did: a witness
// that shares no code with the limiter. The server must have been started with AppendOnly.
func (s *Server) Admissions(t testing.TB) map[string][]Admission {
	t.Helper()
	// The file is written before the replies of an event are sent, so what was acknowledged is there.
	files, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		t.Fatal("no append-only file: ", err)
	}
	slices.Sort(files)
	logs := map[string][]Admission{}
	for _, name := range files {
		if err := readAdmissions(name, logs); err != nil {
			t.Fatal(name, ": ", err)
		}
	}
	return logs
}

func readAdmissions(name string, logs map[string][]Admission) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReader(file)
	for {
		words, err := readCommand(r)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !strings.EqualFold(words[0], "ZADD") {
			continue
		}
		if !strings.EqualFold(words[2], "NX") {
			return fmt.Errorf("an entry added without NX: %q", words)
		}
		for i := 3; i < len(words); i += 2 {
			at, err := strconv.ParseInt(words[i], 10, 64)
			if err != nil {
				return fmt.Errorf("a score that is no whole number of microseconds: %q", words)
			}
			logs[words[1]] = append(logs[words[1]], Admission{At: at, ID: words[i+1]})
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readCount(r, '*')
	if err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		size, err := readCount(r, '$')
		if err != nil {
			return nil, noEOF(err)
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, noEOF(err)
		}
		words[i] = string(word[:size])
	}
	return words, nil
}

func readCount(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q where %q was expected", line, kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
