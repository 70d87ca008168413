package conduit

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v5"

	"github.com/exactlimit/exactlimit/internal/apps/conduit"
)

// api is what the routes do.
type api struct {
	store  *conduit.Store
	config conduit.Config
}

// body is what clients send and get: one of these, by its name.
type body struct {
	User     *user                `json:"user,omitempty"`
	Profile  *conduit.Profile     `json:"profile,omitempty"`
	Article  *conduit.Article     `json:"article,omitempty"`
	Articles *[]conduit.Article   `json:"articles,omitempty"`
	Count    *int                 `json:"articlesCount,omitempty"`
	Comment  *conduit.Comment     `json:"comment,omitempty"`
	Comments *[]conduit.Comment   `json:"comments,omitempty"`
	Errors   *map[string][]string `json:"errors,omitempty"`
}

type user struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	Token    string `json:"token"`
}

type registration struct {
	User struct {
		Username string `json:"username" validate:"required"`
		Email    string `json:"email" validate:"required,email"`
		Password string `json:"password" validate:"required"`
	} `json:"user"`
}

type login struct {
	User struct {
		Email    string `json:"email" validate:"required,email"`
		Password string `json:"password" validate:"required"`
	} `json:"user"`
}

type article struct {
	Article struct {
		Title string   `json:"title" validate:"required"`
		Body  string   `json:"body" validate:"required"`
		Tags  []string `json:"tagList"`
	} `json:"article"`
}

type comment struct {
	Comment struct {
		Body string `json:"body" validate:"required"`
	} `json:"comment"`
}

// userID returns the user that the authentication has found, or 0 for a guest.
func userID(c *echo.Context) int {
	id, _ := c.Get("user").(int)
	return id
}

func (a *api) answerUser(c *echo.Context, status int, u conduit.User) error {
	return c.JSON(status, body{User: &user{u.Username, u.Email, a.config.Token(u)}})
}

func answerArticle(c *echo.Context, status int, article conduit.Article, err error) error {
	if err != nil {
		return err
	}
	return c.JSON(status, body{Article: &article})
}

func (a *api) register(c *echo.Context) error {
	var r registration
	if err := c.Bind(&r); err != nil {
		return err
	}
	user, err := a.store.Register(r.User.Username, r.User.Email, r.User.Password, false)
	if err != nil {
		return err
	}
	return a.answerUser(c, http.StatusCreated, user)
}

func (a *api) login(c *echo.Context) error {
	var r login
	if err := c.Bind(&r); err != nil {
		return err
	}
	user, err := a.store.Login(r.User.Email, r.User.Password)
	if err != nil {
		return err
	}
	return a.answerUser(c, http.StatusOK, user)
}

func (a *api) currentUser(c *echo.Context) error {
	user, _ := a.store.User(userID(c))
	return a.answerUser(c, http.StatusOK, user)
}

func (a *api) follow(c *echo.Context) error {
	profile, err := a.store.Follow(userID(c), c.Param("username"), c.Request().Method == http.MethodPost)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, body{Profile: &profile})
}

func (a *api) articles(c *echo.Context) error {
	return a.list(c, conduit.Filter{
		Tag: c.QueryParam("tag"), Author: c.QueryParam("author"), Favorited: c.QueryParam("favorited"),
	})
}

func (a *api) feed(c *echo.Context) error { return a.list(c, conduit.Filter{Feed: true}) }

func (a *api) list(c *echo.Context, filter conduit.Filter) error {
	found := a.store.Articles(userID(c), filter)
	count := len(found)
	return c.JSON(http.StatusOK, body{Articles: &found, Count: &count})
}

func (a *api) article(c *echo.Context) error {
	article, err := a.store.Read(userID(c), c.Param("slug"))
	return answerArticle(c, http.StatusOK, article, err)
}

func (a *api) write(c *echo.Context) error {
	var r article
	if err := c.Bind(&r); err != nil {
		return err
	}
	article, err := a.store.Write(userID(c), r.Article.Title, r.Article.Body, r.Article.Tags)
	return answerArticle(c, http.StatusCreated, article, err)
}

func (a *api) delete(c *echo.Context) error {
	if err := a.store.Delete(userID(c), c.Param("slug")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (a *api) favor(c *echo.Context) error {
	article, err := a.store.Favor(userID(c), c.Param("slug"), c.Request().Method == http.MethodPost)
	return answerArticle(c, http.StatusOK, article, err)
}

func (a *api) comment(c *echo.Context) error {
	var r comment
	if err := c.Bind(&r); err != nil {
		return err
	}
	comment, err := a.store.Comment(userID(c), c.Param("slug"), r.Comment.Body)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, body{Comment: &comment})
}

func (a *api) comments(c *echo.Context) error {
	comments, err := a.store.Comments(c.Param("slug"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, body{Comments: &comments})
}

func (a *api) deleteComment(c *echo.Context) error {
	id, err := strconv.Atoi(c.Param("id"))
	if err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, "invalid id")
	}
	if err := a.store.DeleteComment(userID(c), c.Param("slug"), id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
