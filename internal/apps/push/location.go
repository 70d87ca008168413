package push

import (
	"cmp"
	"net/url"

	"github.com/gin-gonic/gin"
)

const locationKey = "location"

// locate notes at which URL clients reach the service, for the URLs of images.
func locate(c *gin.Context) {
	c.Set(locationKey, url.URL{
		Scheme: cmp.Or(c.GetHeader("X-Forwarded-Proto"), "http"),
		Host:   cmp.Or(c.GetHeader("X-Forwarded-Host"), c.Request.Host),
	})
}

func (a *api) absolute(c *gin.Context, app Application) Application {
	base := c.MustGet(locationKey).(url.URL)
	app.Image = base.JoinPath(app.Image).String()
	return app
}

// nameUnixPeer gives requests on a Unix socket an address, as of a proxy on this machine.
func nameUnixPeer(c *gin.Context) {
	if c.Request.RemoteAddr == "@" {
		c.Request.RemoteAddr = "127.0.0.1:65535"
	}
}
