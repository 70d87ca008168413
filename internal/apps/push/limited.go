package push

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/ginlimit"
)

// NewLimited returns the application with limits.
func NewLimited(store *Store, config Config, limiter *core.Limiter) (*gin.Engine, error) {
	r := gin.New()
	if err := r.SetTrustedProxies(config.TrustedProxies); err != nil {
		return nil, err
	}
	a := &api{store: store}

	address := ginlimit.ClientIP(ginlimit.TrustedProxies(config.TrustedProxies...))
	site := ginlimit.New(limiter, address)
	failures := ginlimit.New(limiter, address, ginlimit.Exempt(withoutPassword), ginlimit.CountOnly(unauthorized))
	byApplication := ginlimit.New(limiter, applicationKey)
	byUser := ginlimit.New(limiter, userKey)
	uploads := ginlimit.New(limiter, userKey, ginlimit.Cost(kilobytes))

	r.Use(nameUnixPeer)
	r.Use(gin.LoggerWithWriter(config.Log), gin.RecoveryWithWriter(config.Log), locate)
	r.NoRoute(notFound)
	r.GET("/", a.page)
	r.GET("/health", a.health)
	r.Use(func(c *gin.Context) { c.Header("Content-Type", "application/json") })
	r.Use(cors.New(cors.Config{
		AllowOrigins:  config.AllowOrigins,
		AllowMethods:  []string{"GET", "POST", "DELETE"},
		AllowHeaders:  []string{"X-Push-Key", "Authorization", "Content-Type"},
		ExposeHeaders: []string{"RateLimit", "RateLimit-Policy", "Retry-After"},
	}))
	r.Use(site.Limit(core.PerMinute("site", 300)), failures.Limit(guard), answerErrors)
	r.OPTIONS("/*any")
	r.GET("/version", a.version)

	sending := r.Group("", a.require(isApplication))
	sending.POST("/message", byApplication.Limit(core.PerMinute("messages", 60)), a.createMessage)

	users := r.Group("", a.require(isUser))
	users.Use(byUser.LimitFunc(plan))
	users.GET("/message", a.messages)
	users.DELETE("/message/:id", withID(a.deleteMessage))
	users.GET("/application", a.applications)
	users.POST("/application", a.createApplication)
	users.DELETE("/application/:id", withID(a.deleteApplication))
	users.POST("/application/:id/image", uploads.Limit(core.PerHour("images", 256)), withID(a.uploadImage))
	users.GET("/client", a.clients)
	users.POST("/client", a.createClient)
	users.DELETE("/client/:id", withID(a.deleteClient))
	users.GET("/current/user", a.currentUser)
	users.GET("/stream", byUser.Limit(core.InFlight("streams", 3, 30*time.Second)), a.streamUntilClosed)

	admins := r.Group("/user", a.require(isAdmin))
	admins.GET("", a.users)
	admins.POST("", a.createUser)
	return r, nil
}

// guard allows five wrong passwords in a minute.
var guard = core.Limit{Name: "guesses", Max: 5, Window: time.Minute, Ban: time.Hour}

func unauthorized(status int) bool { return status == http.StatusUnauthorized }

// withoutPassword exempts requests that guess no password, so that the guard does not count those in flight.
func withoutPassword(c *gin.Context) bool {
	_, _, ok := c.Request.BasicAuth()
	return !ok
}

func applicationKey(c *gin.Context) (string, error) {
	return "application:" + strconv.FormatUint(uint64(callerOf(c).app.ID), 10), nil
}

func userKey(c *gin.Context) (string, error) {
	return "user:" + strconv.FormatUint(uint64(callerOf(c).user.ID), 10), nil
}

// plan allows administrators more.
func plan(c *gin.Context) ([]core.Limit, error) {
	if callerOf(c).user.Admin {
		return []core.Limit{core.PerMinute("api", 200)}, nil
	}
	return []core.Limit{core.PerMinute("api", 100)}, nil
}

// kilobytes is what an upload costs. A body without a length may be as large as the largest.
func kilobytes(c *gin.Context) int {
	size := c.Request.ContentLength
	if size < 0 || size > MaxImage {
		size = MaxImage
	}
	return 1 + int(size>>10)
}

// streamUntilClosed is stream for a limit of requests in flight, which ends when the handler returns.
func (a *api) streamUntilClosed(c *gin.Context) {
	c.Writer.Header().Del("Content-Type") // which does not belong into the answer to an upgrade
	if stream := a.streams.connect(c, c.Writer.Header()); stream != nil {
		go stream.write()
		a.streams.read(stream)
	}
}
