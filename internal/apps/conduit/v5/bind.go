package conduit

import (
	"encoding/json"
	"net/http"

	"github.com/go-playground/validator/v10"
	"github.com/labstack/echo/v5"
)

// binder reads JSON, and validates what it has read.
type binder struct{}

// Bind implements echo.Binder.
func (binder) Bind(c *echo.Context, into any) error {
	decoder := json.NewDecoder(c.Request().Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		if echo.StatusCode(err) != 0 { // the body is too large
			return err
		}
		return echo.NewHTTPError(http.StatusBadRequest, "this is not the JSON that is expected")
	}
	return c.Validate(into)
}

// checker validates what clients send.
type checker struct{ validate *validator.Validate }

// Validate implements echo.Validator.
func (v checker) Validate(i any) error {
	if err := v.validate.Struct(i); err != nil {
		return echo.NewHTTPError(http.StatusUnprocessableEntity, err.Error())
	}
	return nil
}
