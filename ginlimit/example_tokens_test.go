package ginlimit_test

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// The tokens that a language model may use are reserved, and then those that it has used are charged, also if the
// client has left the stream.
func ExampleCostAfter() {
	r := gin.New()
	const most = 1000 // tokens of a completion, which are reserved
	byKey := ginlimit.New(limiter, ginlimit.Header("X-API-Key"),
		ginlimit.Cost(func(*gin.Context) int { return most }),
		ginlimit.CostAfter(func(c *gin.Context) int { return c.GetInt("used") }))
	r.POST("/chat", byKey.Limit(core.PerMinute("tokens", 1500)), func(c *gin.Context) {
		prompt, _ := c.GetRawData()
		for chunk := range complete(c.Request.Context(), string(prompt), most) {
			c.Set("used", chunk.used) // while it runs, because the client may leave
			c.Writer.WriteString(chunk.text)
			c.Writer.Flush()
		}
	})
	for _, leaves := range []bool{false, true, false} {
		w := chat(r, leaves)
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
