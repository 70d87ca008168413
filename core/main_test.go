package core

import (
	"fmt"
	"os"
	"testing"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(holderEnv); url != "" {
		fmt.Println(hold(url)) // which returns if it fails
		os.Exit(1)
	}
	redistest.Main(m)
}
