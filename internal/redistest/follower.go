package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// Followed is AppendOnly for a server whose append-only file a Follower reads. A rewrite deletes what it replaces.
var Followed = append(AppendOnly[:len(AppendOnly):len(AppendOnly)], "aof-disable-auto-gc no")

// Follower reads a server's append-only file while the server writes it. It keeps nothing of what it has read, and goes
// on with the next file after a BGREWRITEAOF, so neither memory nor disk use grows with time.
type Follower struct {
	dir      string
	sequence int      // of the file
	file     *os.File // nil before the first Read
	offset   int64    // the end of the last transaction that was read

	buffer   []byte
	words    [][]byte   // of the current transaction
	commands [][][]byte // of the current transaction
}

// Follow returns a Follower of a server that was started with Followed and has not rewritten its file yet.
func (s *Server) Follow() *Follower {
	return &Follower{dir: filepath.Join(s.dir, "appendonlydir"), sequence: 1, buffer: make([]byte, 1<<16)}
}

// Close closes the file.
func (f *Follower) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// Read calls apply for each transaction that was written since the last Read, in their order. Commands and words are
// valid until apply returns. What a script writes is one transaction. Read stops after the first error.
//
// A server writes what a call has changed before it replies, so Read finds everything that callers know of. A
// transaction without its end is left for the next Read. By then the server has written the rest or, if it was killed,
// has cut it off.
func (f *Follower) Read(apply func(transaction [][][]byte) error) error {
	for {
		next, err := os.Open(f.name(f.sequence + 1))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// The server does not write to a file after it has begun the next one.
		if err := f.readFile(apply); err != nil || next == nil {
			return err
		}
		f.file.Close()
		f.file, f.offset = next, 0
		f.sequence++
	}
}

func (f *Follower) name(sequence int) string {
	return filepath.Join(f.dir, fmt.Sprintf("appendonly.aof.%d.incr.aof", sequence))
}

func (f *Follower) readFile(apply func([][][]byte) error) (err error) {
	if f.file == nil {
		if f.file, err = os.Open(f.name(f.sequence)); err != nil {
			return err
		}
	}
	for {
		n, err := f.file.ReadAt(f.buffer, f.offset)
		if err != nil && err != io.EOF {
			return err
		}
		last := n < len(f.buffer)
		read := 0
		for {
			size, err := f.parse(f.buffer[read:n])
			if err != nil {
				return fmt.Errorf("%s at %d: %w", f.file.Name(), f.offset+int64(read), err)
			}
			if size == 0 {
				break
			}
			if err := apply(f.commands); err != nil {
				return fmt.Errorf("%w\nby %q", err, f.commands)
			}
			read += size
		}
		f.offset += int64(read)
		if last {
			return nil
		}
		if read == 0 { // the transaction is longer
			f.buffer = make([]byte, 2*len(f.buffer))
		}
	}
}

// parse sets the commands to those of the transaction at the beginning of text, and returns its size, or 0 if its end
// is missing.
func (f *Follower) parse(text []byte) (size int, err error) {
	f.words, f.commands = f.words[:0], f.commands[:0]
	open := false
	for rest := text; ; {
		command, after, err := f.command(rest)
		if err != nil || command == nil {
			return 0, err
		}
		rest = after
		switch {
		case bytes.EqualFold(command[0], []byte("MULTI")):
			open = true
			continue
		case bytes.EqualFold(command[0], []byte("EXEC")):
			open = false
		default:
			f.commands = append(f.commands, command)
		}
		if !open {
			return len(text) - len(rest), nil
		}
	}
}

// command returns the words of the command at the beginning of text, and what follows. It returns no words if the end
// of the command is missing.
func (f *Follower) command(text []byte) (words [][]byte, rest []byte, err error) {
	n, text, err := count(text, '*')
	if err != nil || text == nil {
		return nil, nil, err
	}
	first := len(f.words)
	for range n {
		var size int
		if size, text, err = count(text, '$'); err != nil || text == nil {
			return nil, nil, err
		}
		if len(text) < size+len("\r\n") {
			return nil, nil, nil
		}
		f.words = append(f.words, text[:size])
		text = text[size+len("\r\n"):]
	}
	return f.words[first:len(f.words):len(f.words)], text, nil
}

// count returns the number in the line at the beginning of text, and what follows, or nil if the end of the line is
// missing.
func count(text []byte, kind byte) (n int, rest []byte, err error) {
	end := bytes.IndexByte(text, '\n')
	if end < 0 {
		return 0, nil, nil
	}
	if text[0] != kind || end < 2 {
		return 0, nil, fmt.Errorf("%q where %q was expected", text[:end], kind)
	}
	if n, err = strconv.Atoi(string(text[1 : end-1])); err == nil && (n < 0 || kind == '*' && n == 0) {
		err = fmt.Errorf("%q is not a size", text[:end])
	}
	return n, text[end+1:], err
}

// Size returns how many bytes the append-only files take on disk, including those of a rewrite.
func (f *Follower) Size() (size int64, err error) {
	entries, err := os.ReadDir(f.dir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // or the server has deleted it
			size += info.Size()
		}
	}
	return size, err
}
