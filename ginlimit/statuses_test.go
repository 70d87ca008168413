package ginlimit_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
	"github.com/exactlimit/exactlimit/internal/adaptertest"
)

// bufferingWriter is a writer of middleware that holds responses back until the handlers have run.
type bufferingWriter struct {
	gin.ResponseWriter
	keepFirst bool // of several statuses, it keeps the first one instead of the last
	status    int
	body      []byte
}

func (w *bufferingWriter) WriteHeaderNow() {}

func (w *bufferingWriter) WriteHeader(status int) {
	if w.status == 0 || !w.keepFirst {
		w.status = status
	}
}

func (w *bufferingWriter) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}

// buffer is middleware with a bufferingWriter.
func buffer(keepFirst bool) gin.HandlerFunc {
	return func(c *gin.Context) {
		original, buffering := c.Writer, &bufferingWriter{ResponseWriter: c.Writer, keepFirst: keepFirst}
		c.Writer = buffering
		c.Next()
		c.Writer = original
		original.WriteHeader(buffering.status)
		_, _ = original.Write(buffering.body)
	}
}

// lastStatusWriter is a writer of middleware that returns the last status, even one that was written too late, as that
// of gin-contrib/gzip does.
type lastStatusWriter struct {
	gin.ResponseWriter
	status int
}

func (w *lastStatusWriter) Status() int { return w.status }

func (w *lastStatusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// CountOnly gets the status that the client sees, whatever middleware runs before or after the limiter, and even if a
// handler writes a second status.
func TestCountOnlyWithMiddleware(t *testing.T) {
	writers := map[string]gin.HandlerFunc{
		"none":             func(*gin.Context) {},
		"buffering":        buffer(false),
		"buffering, first": buffer(true), // as gin-contrib/timeout does
		"last status":      func(c *gin.Context) { c.Writer = &lastStatusWriter{c.Writer, http.StatusOK} },
	}
	handlers := map[string]gin.HandlerFunc{
		"/success": ok,
		"/nothing": func(*gin.Context) {},
		"/failure": func(c *gin.Context) { c.String(http.StatusUnauthorized, "who?") },
		"/bare":    func(c *gin.Context) { c.Status(http.StatusUnauthorized) },
		"/abort":   func(c *gin.Context) { c.AbortWithStatus(http.StatusUnauthorized) },
		"/no-return": func(c *gin.Context) { // a return is missing
			c.AbortWithStatusJSON(http.StatusUnauthorized, "who?")
			c.JSON(http.StatusOK, "welcome")
		},
		"/late-failure": func(c *gin.Context) {
			c.JSON(http.StatusOK, "welcome")
			c.JSON(http.StatusUnauthorized, "who?")
		},
	}
	for name, writer := range writers {
		for path, handler := range handlers {
			for _, inFront := range []bool{true, false} {
				limiter, err := core.NewInProcess()
				require.NoError(t, err)
				defer limiter.Close()
				limit := core.PerHour("failures", 9)
				failed := ginlimit.New(limiter, ginlimit.ClientIP(),
					ginlimit.CountOnly(adaptertest.Failed)).Limit(limit)
				r := gin.New()
				if inFront {
					r.Use(writer, failed)
				} else {
					r.Use(failed, writer)
				}
				r.GET(path, handler)
				status := adaptertest.Get(r, path).StatusCode
				twice := path == "/no-return" || path == "/late-failure"
				unknown := twice && inFront && strings.HasPrefix(name, "buffering") // only the writer knows it
				d, err := limiter.Peek(t.Context(), "ip:192.0.2.1", limit)
				require.NoError(t, err)
				assert.Equal(t, unknown || adaptertest.Failed(status), d.Remaining < limit.Max,
					"%s, %d with %s in front: %v", path, status, name, inFront)
			}
		}
	}
}

// Engine.HandleContext uses Gin's own writer again, even if middleware has wrapped it.
func TestCountOnlyBehindHandleContext(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	failed := ginlimit.New(limiter, ginlimit.ClientIP(),
		ginlimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failures", 1))
	for path, status := range map[string]int{"/failure": 401, "/success": 200} {
		r.GET(path, func(c *gin.Context) { c.Status(status) })
		r.GET("/old"+path, failed, func(c *gin.Context) {
			c.Request.URL.Path = path
			r.HandleContext(c)
		})
	}
	for _, row := range []struct {
		path   string
		status int
	}{{"/old/success", 200}, {"/old/success", 200}, {"/old/failure", 401}, {"/old/failure", 429}} {
		assert.Equal(t, row.status, adaptertest.Get(r, row.path).StatusCode, row.path)
	}
}

// With CountOnly, handlers can still use http.ResponseController.
func TestCountOnlyWithResponseController(t *testing.T) {
	limiter, err := core.NewInProcess()
	require.NoError(t, err)
	defer limiter.Close()
	r := gin.New()
	r.Use(ginlimit.New(limiter, ginlimit.ClientIP(),
		ginlimit.CountOnly(adaptertest.Failed)).Limit(core.PerHour("failures", 9)))
	r.GET("/", func(c *gin.Context) {
		assert.NoError(t, http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(time.Hour)))
	})
	server := httptest.NewServer(r)
	defer server.Close()
	response, err := http.Get(server.URL)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
}
