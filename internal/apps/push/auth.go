package push

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

var (
	errUnknown    = errors.New("a token, or a name and a password, is required")
	errNotAllowed = errors.New("this is not allowed to you")
)

// caller is what the authentication has found: a user, or an application of one.
type caller struct {
	user User
	app  Application // the zero Application unless the token is that of one
}

const callerKey = "caller"

func callerOf(c *gin.Context) caller {
	found, _ := c.Get(callerKey)
	caller, _ := found.(caller)
	return caller
}

// tokenOf returns the token of a request, which may be in the query, in a header, or a bearer token.
func tokenOf(c *gin.Context) string {
	if token := c.Query("token"); token != "" {
		return token
	}
	if token := c.GetHeader("X-Push-Key"); token != "" {
		return token
	}
	token, _ := strings.CutPrefix(c.GetHeader("Authorization"), "Bearer ")
	return token
}

// identify finds out where a request comes from.
func (a *api) identify(c *gin.Context) (caller, bool) {
	if name, password, ok := c.Request.BasicAuth(); ok {
		user, ok := a.store.login(name, password)
		return caller{user: user}, ok
	}
	var found caller
	token := tokenOf(c)
	var ok bool
	if found.app, ok = find(a.store, &a.store.applications, func(a Application) bool { return a.Token == token }); !ok {
		client, ok := find(a.store, &a.store.clients, func(c Client) bool { return c.Token == token })
		if !ok {
			return caller{}, false
		}
		found.user.ID = client.owner
	} else {
		found.user.ID = found.app.owner
	}
	found.user, ok = find(a.store, &a.store.users, func(u User) bool { return u.ID == found.user.ID })
	return found, ok
}

// require lets callers pass for which the function returns true.
func (a *api) require(allowed func(caller) bool) gin.HandlerFunc {
	return func(c *gin.Context) {
		switch caller, ok := a.identify(c); {
		case !ok:
			c.AbortWithError(http.StatusUnauthorized, errUnknown)
		case !allowed(caller):
			c.AbortWithError(http.StatusForbidden, errNotAllowed)
		default:
			c.Set(callerKey, caller)
		}
	}
}

func isApplication(c caller) bool { return c.app.ID != 0 }

func isUser(c caller) bool { return c.app.ID == 0 }

func isAdmin(c caller) bool { return isUser(c) && c.user.Admin }
