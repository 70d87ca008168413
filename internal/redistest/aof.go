package redistest

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// AppendOnly is the configuration of a server whose Admissions can be read. What a server had recorded before its master
// sent it everything anew is kept, what it was sent is written as commands, and a log that moves to another server is not
// compressed.
var AppendOnly = []string{
	"appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0", "aof-use-rdb-preamble no", "aof-disable-auto-gc yes",
	"rdbcompression no",
}

// Admission is what one entry of a log stood for when the server recorded it.
type Admission struct {
	At       int64  // microseconds of the server's clock
	ID       string // without the weight
	Weight   int    // units
	Refunded int    // units that were given back later
	// Added marks what a request has cost beyond its charge. Its ID is that of the request's admission, followed by
	// "+". It was not admitted, so a window that ends with it may hold more than Max.
	Added bool
	Moved int64  // where the entry stands instead of At, or 0: a clock that steps back leaves entries in the future
	Addr  string // of the server whose record this is
	// Gone is the command that removed the entry, or the last part of it: ZREMRANGEBYSCORE or ZREMRANGEBYRANK when its window
	// was over, ZREM for a refund, DEL or UNLINK for a reset, a log that expired or one that moved, FLUSHALL. It is "" if the
	// entry is still there.
	Gone string
}

// Record is what a server added to each log, in the order in which it did.
type Record map[string][]Admission

// Admissions reads from the server's append-only file what it added to each log, in the order in which it did: a witness
// that shares no code with the limiter. The server must have been started with AppendOnly. What it had from its master is
// in it too.
func (s *Server) Admissions(t testing.TB) Record {
	t.Helper()
	return Merge(s.Records(t)...)
}

// Records returns Admissions apart for each life of the server's data. A new one begins with a StartEmpty, and where a
// replica was sent everything anew: it has forgotten what it had, and begins with the entries it was sent.
func (s *Server) Records(t testing.TB) []Record {
	t.Helper()
	records, err := s.ReadRecords()
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// Ban is a ban of a log, in microseconds of the server's clock.
type Ban struct{ From, To int64 }

// Bans reads from the server's append-only file the bans of each log, whether they were lifted or not.
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

// ReadRecords is Records for tests that expect an error: the server has recorded something that the right script never writes.
// Such are an id that is added while it is in the log, a score that is no whole number of microseconds, and a log whose mark
// does not say how much its entries weigh beyond one unit each.
func (s *Server) ReadRecords() (records []Record, err error) {
	lives, err := s.lives()
	for _, life := range lives {
		records = append(records, life.record)
	}
	return records, err
}

// lives reads what is recorded of each life of the server's data. It returns none after an error.
func (s *Server) lives() (lives []*recorder, err error) {
	// The file is written before the replies of an event are sent, so what was acknowledged is there.
	dirs, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir*"))
	if err != nil || len(dirs) == 0 {
		return nil, fmt.Errorf("%s keeps no append-only file: %w", s.Addr, cmp.Or(err, os.ErrNotExist))
	}
	slices.Sort(dirs) // those set aside by StartEmpty are numbered; the one in use is not, and so is the first
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

// Merge returns what is in any of the records, in the order of the servers' clocks. An admission that several have is one: as
// heavy as any of them says, and with as little left of it.
func Merge(records ...Record) Record {
	type entry struct {
		at int64
		id string
	}
	merged := Record{}
	if len(records) == 1 {
		return records[0]
	}
	seen := map[string]map[entry]int{} // of each log, the index in merged
	for _, record := range records {
		for log, admissions := range record {
			if seen[log] == nil {
				seen[log] = map[entry]int{}
			}
			for _, a := range admissions {
				i, found := seen[log][entry{a.At, a.ID}]
				if !found {
					i, found = seen[log][entry{a.Stands(), a.ID}]
				}
				if found {
					m := &merged[log][i]
					left := min(m.Left(), a.Left())
					m.Weight = max(m.Weight, a.Weight)
					m.Refunded = m.Weight - left
					if a.At > m.At { // the other record began with the entry where it had been moved
						m.Moved = cmp.Or(m.Moved, m.At)
						m.At = a.At
					}
					m.Moved = cmp.Or(m.Moved, a.Moved)
				} else {
					i = len(merged[log])
					merged[log] = append(merged[log], a)
				}
				seen[log][entry{a.At, a.ID}], seen[log][entry{a.Stands(), a.ID}] = i, i
			}
		}
	}
	for _, admissions := range merged {
		slices.SortStableFunc(admissions, func(a, b Admission) int { return int(a.At - b.At) })
	}
	return merged
}

// Stands returns the score of the entry.
func (a Admission) Stands() int64 { return cmp.Or(a.Moved, a.At) }

// Left returns the units that were not given back.
func (a Admission) Left() int { return a.Weight - a.Refunded }

// Missing returns what of one record another has not: after a failover, what the old master admitted and the new one never
// heard of.
func Missing(from, in Record) Record {
	missing := Record{}
	for log, admissions := range from {
		there := map[string]bool{}
		for _, a := range in[log] {
			there[a.ID] = true
		}
		for _, a := range admissions {
			if !there[a.ID] {
				missing[log] = append(missing[log], a)
			}
		}
	}
	return missing
}

// Len returns the number of admissions in all logs.
func (r Record) Len() int {
	n := 0
	for _, admissions := range r {
		n += len(admissions)
	}
	return n
}

// Units returns how much was admitted, to all logs.
func (r Record) Units() int {
	n := 0
	for _, admissions := range r {
		n += Units(admissions)
	}
	return n
}

// Units returns how much was admitted.
func Units(admissions []Admission) int {
	n := 0
	for _, a := range admissions {
		n += a.Weight
	}
	return n
}

// recordFile is one file of an append-only directory: a base says all that there is at one moment, an increment what
// happened then.
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
					return nil, fmt.Errorf("%s is no list of commands: start the server with AppendOnly", file.name)
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

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readCount(r, '*')
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, errors.New("a command without words")
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
		if line != "" {
			err = noEOF(err)
		}
		return 0, err
	}
	if line[0] == '#' { // a time stamp
		return readCount(r, kind)
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
