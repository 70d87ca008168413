package push

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
)

// api is what the routes do.
type api struct {
	store   *Store
	streams streams
}

// MaxImage is the largest image that an application may have, in bytes.
const MaxImage = 64 << 10

// withID calls f with the number in the path.
func withID(f func(c *gin.Context, id uint)) gin.HandlerFunc {
	return func(c *gin.Context) {
		id, err := strconv.ParseUint(c.Param("id"), 10, 32)
		if err != nil {
			c.AbortWithError(http.StatusBadRequest, errors.New("invalid id"))
			return
		}
		f(c, uint(id))
	}
}

func missing(c *gin.Context, what string, id uint) {
	c.AbortWithError(http.StatusNotFound, fmt.Errorf("%s %d does not exist", what, id))
}

func (a *api) health(c *gin.Context) {
	c.JSON(http.StatusOK, gin.H{"health": "green", "database": "green"})
}

func (a *api) version(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"version": "2.0.0"}) }

func (a *api) page(c *gin.Context) {
	c.Data(http.StatusOK, "text/html; charset=utf-8", []byte("<title>Push</title>\n"))
}

func (a *api) createMessage(c *gin.Context) {
	var body struct {
		Message  string `json:"message" form:"message" binding:"required"`
		Title    string `json:"title" form:"title"`
		Priority int    `json:"priority" form:"priority"`
	}
	if c.Bind(&body) != nil { // it has begun the answer
		return
	}
	app := callerOf(c).app
	if body.Title == "" {
		body.Title = app.Name
	}
	message := a.store.addMessage(app, Message{Message: body.Message, Title: body.Title, Priority: body.Priority})
	a.streams.send(app.owner, message)
	c.JSON(http.StatusOK, message)
}

func (a *api) messages(c *gin.Context) {
	var query struct {
		Limit int  `form:"limit,default=100" binding:"min=1,max=200"`
		Since uint `form:"since"`
	}
	if c.BindQuery(&query) != nil {
		return
	}
	user := callerOf(c).user.ID
	found := all(a.store, &a.store.messages, func(m Message) bool {
		return m.owner == user && (query.Since == 0 || m.ID < query.Since)
	})
	found = found[:min(len(found), query.Limit)]
	c.JSON(http.StatusOK, gin.H{"messages": found, "paging": gin.H{"size": len(found), "limit": query.Limit}})
}

func (a *api) deleteMessage(c *gin.Context, id uint) {
	user := callerOf(c).user.ID
	if !remove(a.store, &a.store.messages, func(m Message) bool { return m.ID == id && m.owner == user }) {
		missing(c, "message", id)
	}
}

func (a *api) createApplication(c *gin.Context) {
	var body struct {
		Name string `json:"name" form:"name" binding:"required"`
	}
	if c.Bind(&body) != nil {
		return
	}
	c.JSON(http.StatusOK, a.absolute(c, a.store.addApplication(callerOf(c).user.ID, body.Name)))
}

func (a *api) applications(c *gin.Context) {
	user := callerOf(c).user.ID
	found := all(a.store, &a.store.applications, func(a Application) bool { return a.owner == user })
	for i := range found {
		found[i] = a.absolute(c, found[i])
	}
	c.JSON(http.StatusOK, found)
}

func (a *api) deleteApplication(c *gin.Context, id uint) {
	user := callerOf(c).user.ID
	if !remove(a.store, &a.store.applications, func(a Application) bool { return a.ID == id && a.owner == user }) {
		missing(c, "application", id)
	}
}

func (a *api) uploadImage(c *gin.Context, id uint) {
	image, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, MaxImage))
	if err != nil {
		c.AbortWithError(http.StatusRequestEntityTooLarge, fmt.Errorf("an image has at most %d bytes", MaxImage))
		return
	}
	if http.DetectContentType(image) != "image/png" {
		c.AbortWithError(http.StatusBadRequest, errors.New("this is no image"))
		return
	}
	app, ok := a.store.setImage(callerOf(c).user.ID, id, image)
	if !ok {
		missing(c, "application", id)
		return
	}
	c.JSON(http.StatusOK, a.absolute(c, app))
}

func (a *api) createClient(c *gin.Context) {
	var body struct {
		Name string `json:"name" form:"name" binding:"required"`
	}
	if c.Bind(&body) != nil {
		return
	}
	c.JSON(http.StatusOK, a.store.addClient(callerOf(c).user.ID, body.Name))
}

func (a *api) clients(c *gin.Context) {
	user := callerOf(c).user.ID
	c.JSON(http.StatusOK, all(a.store, &a.store.clients, func(c Client) bool { return c.owner == user }))
}

func (a *api) deleteClient(c *gin.Context, id uint) {
	user := callerOf(c).user.ID
	if !remove(a.store, &a.store.clients, func(c Client) bool { return c.ID == id && c.owner == user }) {
		missing(c, "client", id)
	}
}

func (a *api) currentUser(c *gin.Context) { c.JSON(http.StatusOK, callerOf(c).user) }

func (a *api) createUser(c *gin.Context) {
	var body struct {
		Name     string `json:"name" form:"name" binding:"required"`
		Password string `json:"pass" form:"pass" binding:"required"`
		Admin    bool   `json:"admin" form:"admin"`
	}
	if c.Bind(&body) != nil {
		return
	}
	user, ok := a.store.addUser(body.Name, body.Password, body.Admin)
	if !ok {
		c.Error(errors.New("this name is taken")) // answerErrors chooses the status
		return
	}
	c.JSON(http.StatusOK, user)
}

func (a *api) users(c *gin.Context) {
	c.JSON(http.StatusOK, all(a.store, &a.store.users, func(User) bool { return true }))
}
