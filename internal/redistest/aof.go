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
// sent it everything anew is kept, and what it was sent is written as commands.
var AppendOnly = []string{
	"appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0", "aof-use-rdb-preamble no", "aof-disable-auto-gc yes",
}

// Admission is one entry that the server itself recorded as added to a log.
type Admission struct {
	At   int64 // microseconds of the server's clock
	ID   string
	Addr string // of the server whose record this is
	// Gone is the command that removed the entry: ZREMRANGEBYSCORE when its window was over, ZREM for a refund, DEL or
	// UNLINK for a reset or when the log expired, FLUSHALL. It is "" of an entry that is there still.
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

// ReadRecords is Records for who wants to see an entry that no right script writes, which is an error: one added without NX,
// or with a score that is no whole number of microseconds.
func (s *Server) ReadRecords() ([]Record, error) {
	// The file is written before the replies of an event are sent, so what was acknowledged is there.
	dirs, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir*"))
	if err != nil || len(dirs) == 0 {
		return nil, fmt.Errorf("%s keeps no append-only file: %w", s.Addr, cmp.Or(err, os.ErrNotExist))
	}
	slices.Sort(dirs) // those set aside by StartEmpty are numbered; the one in use is not, and so is the first
	var records []Record
	for _, dir := range append(dirs[1:], dirs[0]) {
		files, err := recordFiles(dir)
		if err != nil {
			return nil, err
		}
		r := newRecorder(s.Addr)
		for _, file := range files {
			if file.base && len(r.record) > 0 {
				records = append(records, r.record)
				r = newRecorder(s.Addr)
			}
			if err := r.read(file); err != nil {
				return nil, fmt.Errorf("%s: %w", file.name, err)
			}
		}
		records = append(records, r.record)
	}
	return records, nil
}

// Merge puts records together, in the order of the servers' clocks. An admission that several have is one.
func Merge(records ...Record) Record {
	type entry struct {
		at int64
		id string
	}
	merged := Record{}
	if len(records) == 1 {
		return records[0]
	}
	seen := map[string]map[entry]bool{}
	for _, record := range records {
		for log, admissions := range record {
			if seen[log] == nil {
				seen[log] = map[entry]bool{}
			}
			for _, a := range admissions {
				if e := (entry{a.At, a.ID}); !seen[log][e] {
					seen[log][e] = true
					merged[log] = append(merged[log], a)
				}
			}
		}
	}
	for _, admissions := range merged {
		slices.SortStableFunc(admissions, func(a, b Admission) int { return int(a.At - b.At) })
	}
	return merged
}

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

// Len counts the admissions of all logs.
func (r Record) Len() int {
	n := 0
	for _, admissions := range r {
		n += len(admissions)
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

// recorder follows what a server says it did.
type recorder struct {
	addr   string
	record Record
	live   map[string]map[string]entry // of each log, the entries that are there, by id
}

// entry is one that is there.
type entry struct {
	index int   // in the record
	at    int64 // where it stands, which is where it was added unless a clock stepped back
}

func newRecorder(addr string) *recorder {
	return &recorder{addr: addr, record: Record{}, live: map[string]map[string]entry{}}
}

func (r *recorder) read(from recordFile) error {
	file, err := os.Open(from.name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var transaction [][]string // what a script writes stands between MULTI and EXEC, and counts whole or not at all
	open := false
	for {
		words, err := readCommand(in)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the end is being written, or was when the server was killed, which then forgets it when it starts
		}
		if err != nil {
			return err
		}
		words[0] = strings.ToUpper(words[0])
		switch {
		case words[0] == "MULTI":
			open = true
		case words[0] == "EXEC":
			for _, words := range transaction {
				if err := r.apply(words, from.base); err != nil {
					return err
				}
			}
			open, transaction = false, nil
		case open:
			transaction = append(transaction, words)
		default:
			if err := r.apply(words, from.base); err != nil {
				return err
			}
		}
	}
}

func (r *recorder) apply(words []string, base bool) error {
	switch words[0] {
	case "ZADD":
		return r.add(words, base)
	case "ZREM":
		for _, id := range words[2:] {
			r.remove(words[1], id, words[0])
		}
	case "ZREMRANGEBYSCORE":
		text, exclusive := strings.CutPrefix(words[3], "(")
		bound, err := strconv.ParseInt(text, 10, 64)
		if err != nil || words[2] != "-inf" {
			return fmt.Errorf("a range that is not all up to a whole number of microseconds: %q", words)
		}
		if exclusive {
			bound--
		}
		for id, e := range r.live[words[1]] {
			if e.at <= bound {
				r.remove(words[1], id, words[0])
			}
		}
	case "DEL", "UNLINK":
		for _, log := range words[1:] {
			for id := range r.live[log] {
				r.remove(log, id, words[0])
			}
		}
	case "FLUSHALL", "FLUSHDB":
		for log, live := range r.live {
			for id := range live {
				r.remove(log, id, words[0])
			}
		}
	}
	return nil
}

func (r *recorder) add(words []string, base bool) error {
	log, entries := words[1], words[2:]
	again := false
	if !base { // which is written from what there is, and not what a script said
		again = strings.EqualFold(words[2], "XX") // of entries that are in the future, after a step back
		if !again && !strings.EqualFold(words[2], "NX") {
			return fmt.Errorf("an entry added without NX: %q", words)
		}
		entries = words[3:]
	}
	if r.live[log] == nil {
		r.live[log] = map[string]entry{}
	}
	for i := 0; i+1 < len(entries); i += 2 {
		at, err := strconv.ParseInt(entries[i], 10, 64)
		if err != nil {
			return fmt.Errorf("a score that is no whole number of microseconds: %q", words)
		}
		id := entries[i+1]
		old, there := r.live[log][id]
		if again {
			if !there || old.at <= at {
				return fmt.Errorf("%s stands at %d, and was put off to %d", id, old.at, at)
			}
			r.live[log][id] = entry{old.index, at}
			continue
		}
		if there {
			continue // NX: a batch sent again adds those of it that are not there, and is recorded whole
		}
		r.live[log][id] = entry{len(r.record[log]), at}
		r.record[log] = append(r.record[log], Admission{At: at, ID: id, Addr: r.addr})
	}
	return nil
}

func (r *recorder) remove(log, id, how string) {
	if e, there := r.live[log][id]; there {
		r.record[log][e.index].Gone = how
		delete(r.live[log], id)
	}
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
