package echolimit
import _ "github.com/labstack/echo/v4"
