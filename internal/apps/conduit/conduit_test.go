package conduit_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/apps/apptest"
	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// The tests in this file are the application's own. They know of no limits.

var config = conduit.Config{Secret: []byte("a secret of the tests")}

const (
	required = `{"errors":{"body":["a valid token is required"]}}`
	missing  = `{"errors":{"body":["not found"]}}`
	notYours = `{"errors":{"body":["this is not yours"]}}`
	wrong    = `{"errors":{"body":["the address or the password is wrong"]}}`
)

// newStore returns a store with the users 1, ann, and 2, bob. Bob pays.
func newStore(t *testing.T) *conduit.Store {
	t.Helper()
	store := &conduit.Store{Now: func() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) }}
	for _, name := range []string{"ann", "bob"} {
		_, err := store.Register(name, name+"@example.com", "sesame", name == "bob")
		require.NoError(t, err)
	}
	return store
}

var (
	ann = "Token " + config.Token(conduit.User{ID: 1})
	bob = "Token " + config.Token(conduit.User{ID: 2})
)

func TestLogin(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /api/users/login",
				Body: `{"user":{"email":"ann@example.com","password":"guess"}}`, Status: 403,
				Want: wrong},
			{Target: "POST /api/users/login",
				Body: `{"user":{"email":"eve@example.com","password":"sesame"}}`, Status: 403,
				Want: wrong},
			{Target: "POST /api/users/login",
				Body: `{"user":{"email":"ann"}}`, Status: 422},
			{Target: "POST /api/users/login",
				Body: `{"user":`, Status: 400,
				Want: `{"errors":{"body":["this is not the JSON that is expected"]}}`},
			{Target: "POST /api/users/login",
				Body: `{"member":{}}`, Status: 400},
			{Target: "POST /api/users", Body: `{"user":{"username":"ann","email":"new@example.com","password":"x"}}`,
				Status: 422,
				Want:   `{"errors":{"body":["this name or address is taken"]}}`},
			{Target: "POST /api/users/", Body: `{"user":{"username":"cid","email":"cid@example.com","password":"x"}}`,
				Status: 201},
			{Target: "GET /api/user", Status: 401, Want: required},
			{Target: "GET /api/user", As: "Token x", Status: 401, Want: required},
			{Target: "GET /api/user", As: ann + "x", Status: 401, Want: required},
			{Target: "GET /api/user", As: "Token " + config.Token(conduit.User{ID: 9}), Status: 401,
				Want: `{"errors":{"body":["there is no such user"]}}`},
		})
		w := apptest.Request{Target: "POST /api/users/login",
			Body: `{"user":{"email":"ann@example.com","password":"sesame"}}`}.Send(app)
		require.Equal(t, http.StatusOK, w.Code)
		var answer struct {
			User struct{ Username, Token string }
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
		assert.Equal(t, "ann", answer.User.Username)
		apptest.Play(t, app, []apptest.Request{
			{Target: "GET /api/user", As: "Token " + answer.User.Token, Status: 200}})
	})
}

func TestArticles(t *testing.T) {
	const tea = `"slug":"on-tea","title":"On tea","body":"Hot.","tagList":["drinks"],` +
		`"createdAt":"2026-11-28T12:00:00Z",`
	const plain = `{` + tea + `"favorited":false,"favoritesCount":0,"author":{"username":"ann","following":false}}`
	const liked = `{` + tea + `"favorited":true,"favoritesCount":1,"author":{"username":"ann","following":false}}`
	const others = `{` + tea + `"favorited":false,"favoritesCount":1,"author":{"username":"ann","following":false}}`
	const followed = `{` + tea + `"favorited":true,"favoritesCount":1,"author":{"username":"ann","following":true}}`
	const none = `{"articles":[],"articlesCount":0}`
	const write = `{"article":{"title":"On tea","body":"Hot.","tagList":["drinks"]}}`
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /api/articles", Body: write, Status: 401, Want: required},
			{Target: "POST /api/articles", As: ann, Body: `{"article":{"title":"On tea"}}`, Status: 422},
			{Target: "POST /api/articles", As: ann, Body: write, Status: 201, Want: `{"article":` + plain + `}`},
			{Target: "POST /api/articles", As: bob, Body: write, Status: 422,
				Want: `{"errors":{"body":["this title is taken"]}}`},
			{Target: "GET /api/articles/on-tea", Status: 200, Want: `{"article":` + plain + `}`},
			{Target: "GET /api/articles/on-tea", As: "Token x", Status: 401, Want: required},
			{Target: "GET /api/articles/on-coffee", Status: 404, Want: missing},
			{Target: "POST /api/articles/on-tea/favorite", As: bob, Status: 200, Want: `{"article":` + liked + `}`},
			{Target: "GET /api/articles?favorited=bob", Status: 200,
				Want: `{"articles":[` + others + `],"articlesCount":1}`},
			{Target: "GET /api/articles?tag=food", Status: 200, Want: none},
			{Target: "GET /api/articles?author=bob", Status: 200, Want: none},
			{Target: "GET /api/articles/feed", Status: 401, Want: required},
			{Target: "GET /api/articles/feed", As: bob, Status: 200, Want: none},
			{Target: "POST /api/profiles/ann/follow", As: bob, Status: 200,
				Want: `{"profile":{"username":"ann","following":true}}`},
			{Target: "POST /api/profiles/eve/follow", As: bob, Status: 404, Want: missing},
			{Target: "GET /api/articles/feed", As: bob, Status: 200,
				Want: `{"articles":[` + followed + `],"articlesCount":1}`},
			{Target: "DELETE /api/profiles/ann/follow", As: bob, Status: 200,
				Want: `{"profile":{"username":"ann","following":false}}`},
			{Target: "DELETE /api/articles/on-tea/favorite", As: bob, Status: 200, Want: `{"article":` + plain + `}`},
			{Target: "DELETE /api/articles/on-tea", As: bob, Status: 403, Want: notYours},
			{Target: "DELETE /api/articles/on-tea", As: ann, Status: 204},
			{Target: "GET /api/articles", Status: 200, Want: none},
		})
	})
}

func TestComments(t *testing.T) {
	const nice = `{"id":3,"createdAt":"2026-11-28T12:00:00Z","body":"Nice.",` +
		`"author":{"username":"bob","following":false}}`
	each(t, func(t *testing.T, app http.Handler) {
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /api/articles", As: ann, Body: `{"article":{"title":"On tea","body":"Hot."}}`, Status: 201},
			{Target: "POST /api/articles/on-tea/comments", As: bob, Body: `{"comment":{"body":"Nice."}}`, Status: 201,
				Want: `{"comment":` + nice + `}`},
			{Target: "POST /api/articles/on-tea/comments", As: bob, Body: `{"comment":{}}`, Status: 422},
			{Target: "GET /api/articles/on-tea/comments", Status: 200, Want: `{"comments":[` + nice + `]}`},
			{Target: "DELETE /api/articles/on-tea/comments/3", As: ann, Status: 403, Want: notYours},
			{Target: "DELETE /api/articles/on-tea/comments/x", As: bob, Status: 400,
				Want: `{"errors":{"body":["invalid id"]}}`},
			{Target: "DELETE /api/articles/on-tea/comments/4", As: bob, Status: 404, Want: missing},
			{Target: "DELETE /api/articles/on-tea/comments/3", As: bob, Status: 204},
			{Target: "GET /api/articles/on-tea/comments", Status: 200, Want: `{"comments":[]}`},
		})
	})
}

func TestBodiesAreLimited(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		long := `{"article":{"title":"On tea","body":"` + strings.Repeat("x", 64<<10) + `"}}`
		apptest.Play(t, app, []apptest.Request{
			{Target: "POST /api/articles", As: ann, Body: long, Status: 413,
				Want: `{"errors":{"body":["Request Entity Too Large"]}}`},
		})
		r := httptest.NewRequest("POST", "/api/articles", io.MultiReader(strings.NewReader(long))) // without a length
		r.Header.Set("Authorization", ann)
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	})
}

func TestCompression(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		w := apptest.Request{Target: "GET /api/articles", As: "Accept-Encoding: gzip"}.Send(app)
		require.Equal(t, "gzip", w.Header().Get("Content-Encoding"))
		assert.NotEmpty(t, w.Header().Get("X-Request-Id"))
		reader, err := gzip.NewReader(w.Body)
		require.NoError(t, err)
		body, err := io.ReadAll(reader)
		require.NoError(t, err)
		assert.JSONEq(t, `{"articles":[],"articlesCount":0}`, string(body))
	})
}

func TestCORS(t *testing.T) {
	each(t, func(t *testing.T, app http.Handler) {
		r := httptest.NewRequest("OPTIONS", "/api/articles", nil)
		r.Header.Set("Origin", "https://conduit.example.com")
		r.Header.Set("Access-Control-Request-Method", "POST")
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		assert.Equal(t, http.StatusNoContent, w.Code)
		assert.Equal(t, "https://conduit.example.com", w.Header().Get("Access-Control-Allow-Origin"))
	})
}
