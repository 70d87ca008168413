package push

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/apps/apptest"
)

// The tests in this file are the application's own. They know of no limits.

const (
	admin = "Basic YWRtaW46cHc="     // admin:pw
	ann   = "Basic YW5uOnNlc2FtZQ==" // ann:sesame
	wrong = "Basic YW5uOmd1ZXNz"     // ann:guess

	unknown = `{"error":"Unauthorized","errorCode":401,` +
		`"errorDescription":"a token, or a name and a password, is required"}`
	notAllowed = `{"error":"Forbidden","errorCode":403,"errorDescription":"this is not allowed to you"}`
	png        = "\x89PNG\r\n\x1a\n"
)

// newStore returns a store with two users, 1 and 2, whose tokens are counted.
func newStore() *Store {
	store := NewStore()
	tokens := 0
	store.Token = func() string { tokens++; return strconv.Itoa(tokens) }
	store.Now = func() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) }
	store.addUser("admin", "pw", true)
	store.addUser("ann", "sesame", false)
	return store
}

func TestAuthentication(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "GET /client", Status: 401, Want: unknown},
			{Target: "GET /client", As: wrong, Status: 401, Want: unknown},
			{Target: "GET /client", As: ann, Status: 200, Want: `[]`},
			{Target: "POST /client", As: ann, Body: `{"name":"phone"}`, Status: 200,
				Want: `{"id":3,"token":"C1","name":"phone"}`},
			{Target: "GET /client", As: "Bearer C1", Status: 200, Want: `[{"id":3,"token":"C1","name":"phone"}]`},
			{Target: "GET /client", As: "X-Push-Key: C1", Status: 200},
			{Target: "GET /client?token=C1", Status: 200},
			{Target: "GET /client?token=C2", Status: 401, Want: unknown},
			{Target: "POST /application", As: "Bearer C1", Body: `{"name":"backup"}`, Status: 200,
				Want: `{"id":4,"token":"A2","name":"backup","image":"http://example.com/static/default.png"}`},
			{Target: "GET /client", As: "Bearer A2", Status: 403, Want: notAllowed},
			{Target: "POST /message", As: "Bearer C1", Body: `{"message":"hello"}`, Status: 403, Want: notAllowed},
			{Target: "POST /message", As: ann, Body: `{"message":"hello"}`, Status: 403, Want: notAllowed},
			{Target: "POST /message", As: wrong, Body: `{"message":"hello"}`, Status: 401, Want: unknown},
			{Target: "GET /current/user", As: "Bearer C1", Status: 200, Want: `{"id":2,"name":"ann","admin":false}`},
			{Target: "DELETE /client/3", As: ann, Status: 200},
			{Target: "GET /current/user", As: "Bearer C1", Status: 401, Want: unknown},
		})
	})
}

func TestUsers(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "GET /user", As: ann, Status: 403, Want: notAllowed},
			{Target: "POST /user", As: admin, Body: `{"name":"bob","pass":"x"}`, Status: 200,
				Want: `{"id":3,"name":"bob","admin":false}`},
			{Target: "POST /user", As: admin, Body: `{"name":"bob","pass":"y"}`, Status: 400,
				Want: `{"error":"Bad Request","errorCode":400,"errorDescription":"this name is taken"}`},
			{Target: "POST /user", As: admin, Body: `{"name":"eve"}`, Status: 400},
			{Target: "GET /user", As: admin, Status: 200, Want: `[{"id":3,"name":"bob","admin":false},
				{"id":2,"name":"ann","admin":false},{"id":1,"name":"admin","admin":true}]`},
		})
	})
}

func TestMessages(t *testing.T) {
	const first = `{"id":4,"appid":3,"message":"done","title":"backup","priority":0,"date":"2026-11-28T12:00:00Z"}`
	const second = `{"id":5,"appid":3,"message":"failed","title":"sorry","priority":9,"date":"2026-11-28T12:00:00Z"}`
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /application", As: ann, Body: `{"name":"backup"}`, Status: 200},
			{Target: "POST /message", As: "X-Push-Key: A1", Body: `{"message":"done"}`, Status: 200, Want: first},
			{Target: "POST /message?token=A1", Body: `{"message":"failed","title":"sorry","priority":9}`, Status: 200,
				Want: second},
			{Target: "POST /message?token=A1", Body: `{}`, Status: 400},
			{Target: "POST /message?token=A1", Body: `{`, Status: 400,
				Want: `{"error":"Bad Request","errorCode":400,"errorDescription":"unexpected EOF"}`},
			{Target: "GET /message", As: ann, Status: 200,
				Want: `{"messages":[` + second + `,` + first + `],"paging":{"size":2,"limit":100}}`},
			{Target: "GET /message?limit=1&since=5", As: ann, Status: 200,
				Want: `{"messages":[` + first + `],"paging":{"size":1,"limit":1}}`},
			{Target: "GET /message?limit=0", As: ann, Status: 400},
			{Target: "GET /message", As: admin, Status: 200, Want: `{"messages":[],"paging":{"size":0,"limit":100}}`},
			{Target: "DELETE /message/4", As: admin, Status: 404,
				Want: `{"error":"Not Found","errorCode":404,"errorDescription":"message 4 does not exist"}`},
			{Target: "DELETE /message/x", As: ann, Status: 400,
				Want: `{"error":"Bad Request","errorCode":400,"errorDescription":"invalid id"}`},
			{Target: "DELETE /message/4", As: ann, Status: 200},
			{Target: "DELETE /application/3", As: ann, Status: 200},
			{Target: "POST /message?token=A1", Body: `{"message":"late"}`, Status: 401, Want: unknown},
		})
	})
}

func TestImages(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /application", As: ann, Body: `{"name":"backup"}`, Status: 200},
			{Target: "POST /application/3/image", As: ann, Body: "no image", Status: 400},
			{Target: "POST /application/3/image", As: ann, Body: png + strings.Repeat("x", MaxImage), Status: 413},
			{Target: "POST /application/3/image", As: admin, Body: png, Status: 404},
			{Target: "POST /application/3/image", As: ann, Body: png, Status: 200,
				Want: `{"id":3,"token":"A1","name":"backup","image":"http://example.com/image/2.png"}`},
			{Target: "GET /application", As: ann, Status: 200,
				Want: `[{"id":3,"token":"A1","name":"backup","image":"http://example.com/image/2.png"}]`},
		})
	})
}

func TestPages(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "GET /", Status: 200},
			{Target: "GET /health", Status: 200, Want: `{"health":"green","database":"green"}`},
			{Target: "GET /version", Status: 200, Want: `{"version":"2.0.0"}`},
			{Target: "GET /nowhere", Status: 404,
				Want: `{"error":"Not Found","errorCode":404,"errorDescription":"page not found"}`},
		})
	})
}

func TestCORS(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		r := httptest.NewRequest("OPTIONS", "/message", nil)
		r.Header.Set("Origin", "https://push.example.com")
		r.Header.Set("Access-Control-Request-Method", "POST")
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Equal(t, "https://push.example.com", w.Header().Get("Access-Control-Allow-Origin"))
	})
}

func TestStream(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		server := serve(t, app)
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /application", As: ann, Body: `{"name":"backup"}`, Status: 200},
			{Target: "POST /client", As: ann, Body: `{"name":"phone"}`, Status: 200},
			{Target: "GET /stream?token=C2", Status: 400}, // no WebSocket
		})
		conn, _, err := dial(server, "C2")
		require.NoError(t, err)
		defer conn.Close()
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /message?token=A1", Body: `{"message":"done"}`, Status: 200}})
		var message Message
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		require.NoError(t, conn.ReadJSON(&message))
		assert.Equal(t, "done", message.Message)

		_, response, err := dial(server, "C9")
		require.Error(t, err)
		assert.Equal(t, http.StatusUnauthorized, response.StatusCode)
	})
}

// serve runs a server until the end of the test, and then until its handlers have returned.
func serve(t *testing.T, app http.Handler) *httptest.Server {
	t.Helper()
	var running sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		app.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return server
}

// dial opens a stream, with a token in the query.
func dial(server *httptest.Server, token string) (*websocket.Conn, *http.Response, error) {
	return websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/stream?token="+token, nil)
}
