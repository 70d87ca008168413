package conduit

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// authenticate finds the user that a token names. Requests without a token pass if optional returns true.
func (a *api) authenticate(optional func(echo.Context) bool) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			token, ok := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Token ")
			if !ok && optional(c) {
				return next(c)
			}
			id, ok := a.config.Verify(token)
			if !ok {
				return echo.NewHTTPError(http.StatusUnauthorized, "a valid token is required")
			}
			user, ok := a.store.User(id)
			if !ok {
				return echo.NewHTTPError(http.StatusUnauthorized, "there is no such user")
			}
			c.Set("user", user.ID)
			c.Set("pro", user.Pro)
			return next(c)
		}
	}
}

func never(echo.Context) bool { return false }

// reading is optional for the routes on which guests may read.
func reading(c echo.Context) bool {
	return c.Request().Method == http.MethodGet && c.Path() != "/api/articles/feed"
}
