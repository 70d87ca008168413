package redistest

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// AppendOnly is the configuration of a server whose Admissions can be read.
var AppendOnly = []string{
	"appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0",
	"aof-use-rdb-preamble no", // a replica writes what its master sends as commands
	"aof-disable-auto-gc yes", // and keeps what it has written before that
	"rdbcompression no",       // of a log that moves to another server
}

// Admissions reads from the server's append-only file what it added to each log, in that order, and what its master
// did. It shares no code with the limiter. The server must have been started with AppendOnly.
func (s *Server) Admissions(t testing.TB) Record {
	t.Helper()
	return Merge(s.Records(t)...)
}

// Records returns the Admissions of each life of the server's data. A new life begins with StartEmpty, and when a
// master sends a replica its data, which replaces what the replica had.
func (s *Server) Records(t testing.TB) []Record {
	t.Helper()
	records, err := s.ReadRecords()
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// Bans reads from the server's append-only file the bans of each log, including those that were lifted.
func (s *Server) Bans(t testing.TB) map[string][]Ban {
	t.Helper()
	lives, err := s.lives()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]Ban{}
	for _, life := range lives {
		for log, bans := range life.bans {
			all[log] = append(all[log], bans...)
		}
	}
	return all
}

// ReadRecords is Records for tests that expect an error: the server has recorded something that the right script never
// writes. Examples are an id that is added while it is in the log, a score that is not a whole number of microseconds,
// and a log whose mark is not the units of its entries beyond one each.
func (s *Server) ReadRecords() (records []Record, err error) {
	lives, err := s.lives()
	for _, life := range lives {
		records = append(records, life.record)
	}
	return records, err
}

// lives reads the record of each life of the server's data. It returns none with an error.
func (s *Server) lives() (lives []*recorder, err error) {
	// The server writes the file before it replies, so what callers know of is in it.
	dirs, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir*"))
	if err != nil || len(dirs) == 0 {
		return nil, fmt.Errorf("%s keeps no append-only file: %w", s.Addr, cmp.Or(err, os.ErrNotExist))
	}
	slices.Sort(dirs) // the first is the one in use, since only those that StartEmpty renames are numbered
	for _, dir := range append(dirs[1:], dirs[0]) {
		files, err := recordFiles(dir)
		if err != nil {
			return nil, err
		}
		r := newRecorder(s.Addr)
		for _, file := range files {
			if file.base && len(r.record) > 0 {
				lives = append(lives, r)
				r = newRecorder(s.Addr)
			}
			if err := r.read(file); err != nil {
				return nil, fmt.Errorf("%s: %w", file.name, err)
			}
		}
		lives = append(lives, r)
	}
	return lives, nil
}

// recordFile is a file of an append-only directory: a base, which holds all data at a time, or an increment, which
// holds the commands after that.
type recordFile struct {
	name     string
	sequence int
	base     bool
}

func recordFiles(dir string) ([]recordFile, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []recordFile
	for _, entry := range names {
		parts := strings.Split(entry.Name(), ".") // appendonly.aof.2.base.aof
		file := recordFile{name: filepath.Join(dir, entry.Name())}
		switch {
		case entry.Name() == "temp-appendonly.aof.incr": // an increment whose base is still being written
			file.sequence = 1 << 30
		case len(parts) == 5 && (parts[3] == "base" || parts[3] == "incr"):
			if file.sequence, err = strconv.Atoi(parts[2]); err != nil {
				return nil, fmt.Errorf("%s: %w", file.name, err)
			}
			file.base = parts[3] == "base"
			if parts[4] == "rdb" {
				if file.sequence > 1 {
					return nil, fmt.Errorf("%s is not a list of commands: start the server with AppendOnly", file.name)
				}
				continue // written by the first start, and empty
			}
		default:
			continue // the manifest, or what is not yet in use
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b recordFile) int {
		if a.sequence == b.sequence && a.base != b.base {
			if a.base {
				return -1
			}
			return 1
		}
		return a.sequence - b.sequence
	})
	return files, nil
}

// readCommand reads a command, as words. It skips time stamps.
func readCommand(r *bufio.Reader) ([]string, error) {
	for {
		text, words, err := ReadRequest(r)
		switch {
		case err != nil:
			return nil, err
		case text[0] == '*' && len(words) > 0:
			return words, nil
		case text[0] != '#':
			return nil, fmt.Errorf("%q is not a command", text)
		}
	}
}
