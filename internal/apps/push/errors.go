package push

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// failure is the body of each answer that is an error.
type failure struct {
	Error       string `json:"error"`
	Code        int    `json:"errorCode"`
	Description string `json:"errorDescription"`
}

// answerErrors answers what handlers have put into c.Errors, whether they have chosen a status or not.
func answerErrors(c *gin.Context) {
	c.Next()
	for _, err := range c.Errors {
		status := c.Writer.Status()
		if status == http.StatusOK {
			status = http.StatusBadRequest
		}
		c.JSON(status, failure{http.StatusText(status), status, err.Error()})
	}
}

func notFound(c *gin.Context) {
	c.JSON(http.StatusNotFound, failure{http.StatusText(http.StatusNotFound), http.StatusNotFound, "page not found"})
}
