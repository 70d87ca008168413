package core

import (
	"os"
	"testing"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		os.Exit(work())
	}
	redistest.Main(m)
}
