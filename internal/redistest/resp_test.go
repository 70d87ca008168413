package redistest

import (
	"bufio"
	"bytes"
	"io"
	"testing"
)

// What a reader takes and what it leaves are together the text that came.
func FuzzReadValue(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "-ERR x\r\n", ":1\r\n", "$-1\r\n", "$0\r\n\r\n", "$2\r\nhi\r\n", "*0\r\n", "*-1\r\n",
		"*2\r\n:1\r\n*1\r\n_\r\n", "%1\r\n+a\r\n#t\r\n", "~1\r\n,1.5\r\n", ">2\r\n+a\r\n+b\r\n",
		"|1\r\n+a\r\n+b\r\n:7\r\n", "=5\r\ntxt:x\r\n", "!3\r\nERR\r\n", "(9\r\n",
		"$?\r\n", "*2\r\n+a\r\n", "x\r\n", "\r\n", "PING a\r\n", "*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(text), 16)
		value, err := ReadValue(in)
		rest, _ := io.ReadAll(in)
		if got := append(bytes.Clone(value), rest...); !bytes.Equal(text, got) {
			t.Errorf("%q became %q", text, got)
		}
		if err == io.EOF && len(text) > 0 {
			t.Error("an end where there is none")
		}
		in = bufio.NewReaderSize(bytes.NewReader(text), 16)
		request, _, _ := ReadRequest(in) // whatever the words are, the bytes are passed on
		rest, _ = io.ReadAll(in)
		if got := append(bytes.Clone(request), rest...); !bytes.Equal(text, got) {
			t.Errorf("of a request, %q became %q", text, got)
		}
	})
}
