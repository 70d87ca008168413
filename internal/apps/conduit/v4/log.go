package conduit

import (
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// logging has errors answered where requests are logged, as Echo's own configuration does. What it logs is discarded.
var logging = middleware.RequestLoggerConfig{
	LogStatus:     true,
	HandleError:   true,
	LogValuesFunc: func(echo.Context, middleware.RequestLoggerValues) error { return nil },
}
