package push

import (
	"io"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"
)

// Config is what an operator sets.
type Config struct {
	TrustedProxies []string // addresses and networks; an empty list trusts no proxy
	AllowOrigins   []string // of pages that may use the API
	Log            io.Writer
}

// New returns the application.
func New(store *Store, config Config) (*gin.Engine, error) {
	r := gin.New()
	if err := r.SetTrustedProxies(config.TrustedProxies); err != nil {
		return nil, err
	}
	a := &api{store: store}

	r.Use(nameUnixPeer)
	r.Use(gin.LoggerWithWriter(config.Log), gin.RecoveryWithWriter(config.Log), answerErrors, locate)
	r.NoRoute(notFound)
	r.GET("/", a.page)
	r.GET("/health", a.health)
	r.Use(func(c *gin.Context) { c.Header("Content-Type", "application/json") })
	r.Use(cors.New(cors.Config{
		AllowOrigins: config.AllowOrigins,
		AllowMethods: []string{"GET", "POST", "DELETE"},
		AllowHeaders: []string{"X-Push-Key", "Authorization", "Content-Type"},
	}))
	r.OPTIONS("/*any")
	r.GET("/version", a.version)

	sending := r.Group("", a.require(isApplication))
	sending.POST("/message", a.createMessage)

	users := r.Group("", a.require(isUser))
	users.GET("/message", a.messages)
	users.DELETE("/message/:id", withID(a.deleteMessage))
	users.GET("/application", a.applications)
	users.POST("/application", a.createApplication)
	users.DELETE("/application/:id", withID(a.deleteApplication))
	users.POST("/application/:id/image", withID(a.uploadImage))
	users.GET("/client", a.clients)
	users.POST("/client", a.createClient)
	users.DELETE("/client/:id", withID(a.deleteClient))
	users.GET("/current/user", a.currentUser)
	users.GET("/stream", a.stream)

	admins := r.Group("/user", a.require(isAdmin))
	admins.GET("", a.users)
	admins.POST("", a.createUser)
	return r, nil
}
