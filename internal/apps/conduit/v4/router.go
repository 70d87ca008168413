// Package conduit is the application in Echo v4.
package conduit

import (
	"github.com/go-playground/validator/v10"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// New returns the application.
func New(store *conduit.Store, config conduit.Config) *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler, e.Binder, e.Validator = answerError, binder{}, checker{validator.New()}
	a := &api{store, config}

	e.Pre(middleware.RemoveTrailingSlash())
	e.Use(middleware.RequestID(), middleware.RequestLoggerWithConfig(logging))
	e.Use(middleware.Recover())
	e.Use(middleware.CORSWithConfig(middleware.CORSConfig{
		AllowOrigins: []string{"https://conduit.example.com"},
		AllowHeaders: []string{"Authorization", "Content-Type"},
	}))
	e.Use(middleware.Gzip(), middleware.BodyLimit("64K"))

	guests := e.Group("/api/users")
	guests.POST("", a.register)
	guests.POST("/login", a.login)

	users := e.Group("/api", a.authenticate(never))
	users.GET("/user", a.currentUser)
	users.POST("/profiles/:username/follow", a.follow)
	users.DELETE("/profiles/:username/follow", a.follow)

	articles := e.Group("/api/articles", a.authenticate(reading))
	articles.GET("", a.articles)
	articles.POST("", a.write)
	articles.GET("/feed", a.feed)
	articles.GET("/:slug", a.article)
	articles.DELETE("/:slug", a.delete)
	articles.POST("/:slug/favorite", a.favor)
	articles.DELETE("/:slug/favorite", a.favor)
	articles.GET("/:slug/comments", a.comments)
	articles.POST("/:slug/comments", a.comment)
	articles.DELETE("/:slug/comments/:id", a.deleteComment)
	return e
}
