package conduit

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// answerError answers what handlers and middleware return.
func answerError(c *echo.Context, err error) {
	if response, _ := echo.UnwrapResponse(c.Response()); response != nil && response.Committed {
		return
	}
	status, message := http.StatusInternalServerError, "internal error"
	var ours *conduit.Error
	var echos *echo.HTTPError
	switch {
	case errors.As(err, &ours):
		status, message = ours.Status, ours.Message
	case errors.As(err, &echos):
		status, message = echos.Code, echos.Message
	case echo.StatusCode(err) != 0:
		status, message = echo.StatusCode(err), http.StatusText(echo.StatusCode(err))
	}
	if err := c.JSON(status, body{Errors: &map[string][]string{"body": {message}}}); err != nil {
		c.Logger().Error(err.Error())
	}
}
