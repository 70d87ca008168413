package conduit

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// answerError answers what handlers and middleware return.
func answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, message := http.StatusInternalServerError, "internal error"
	var ours *conduit.Error
	var echos *echo.HTTPError
	switch {
	case errors.As(err, &ours):
		status, message = ours.Status, ours.Message
	case errors.As(err, &echos):
		status, message = echos.Code, fmt.Sprint(echos.Message)
	}
	if err := c.JSON(status, body{Errors: &map[string][]string{"body": {message}}}); err != nil {
		c.Logger().Error(err)
	}
}
