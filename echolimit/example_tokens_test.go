package echolimit_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/echolimit"
)

// The tokens that a language model may use are reserved, and then those that it has used are charged, also if the
// client has left the stream.
func ExampleCostAfter() {
	e := echo.New()
	const most = 1000 // tokens of a completion, which are reserved
	byKey := echolimit.New(limiter, echolimit.Header("X-API-Key"),
		echolimit.Cost(func(echo.Context) int { return most }),
		echolimit.CostAfter(func(c echo.Context) int {
			used, _ := c.Get("used").(int)
			return used
		}))
	e.POST("/chat", func(c echo.Context) error {
		prompt, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		for chunk := range complete(c.Request().Context(), string(prompt), most) {
			c.Set("used", chunk.used) // while it runs, because the client may leave
			if _, err := io.WriteString(c.Response(), chunk.text); err != nil {
				return err
			}
			http.NewResponseController(c.Response()).Flush()
		}
		return nil
	}, byKey.Limit(core.PerMinute("tokens", 1500)))
	for _, leaves := range []bool{false, true, false} {
		w := chat(e, leaves)
		fmt.Println(w.Code, w.Header()["Ratelimit"], len(w.Body.String())/len("Because. "))
	}
	// Output:
	// 200 ["tokens";r=500;t=60] 5
	// 200 ["tokens";r=220;t=60] 1
	// 200 ["tokens";r=100;t=60] 5
}

// chunk is a part of the response of a language model.
type chunk struct {
	text string
	used int // tokens until now, those of the prompt among them
}

// complete stands for a call of a language model, which ends with its context.
func complete(ctx context.Context, _ string, _ int) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		for i := range 5 {
			if ctx.Err() != nil || !yield(chunk{text: "Because. ", used: 120 + 40*i}) {
				return
			}
		}
	}
}

// chat sends a request. If leaves is true, the client leaves when the response begins.
func chat(h http.Handler, leaves bool) *httptest.ResponseRecorder {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	w := &reader{ResponseRecorder: httptest.NewRecorder(), read: func() {
		if leaves {
			leave()
		}
	}}
	r := httptest.NewRequestWithContext(ctx, "POST", "/chat", strings.NewReader("Why is the sky blue?"))
	r.Header.Set("X-API-Key", "ann's")
	h.ServeHTTP(w, r)
	return w.ResponseRecorder
}

// reader is a client that reads a response while it is written.
type reader struct {
	*httptest.ResponseRecorder
	read func()
}

func (r *reader) Flush() {
	r.ResponseRecorder.Flush()
	r.read()
}
