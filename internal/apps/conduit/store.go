// Package conduit is a RealWorld backend: users write articles, and comment on those of others. What does not depend on
// the framework is here; conduit/v4 is the application in Echo v4, and conduit/v5 in Echo v5.
package conduit

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Error is what a client is told, with a status.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

var (
	errTaken    = &Error{http.StatusUnprocessableEntity, "this name or address is taken"}
	errLogin    = &Error{http.StatusForbidden, "the address or the password is wrong"}
	errNotFound = &Error{http.StatusNotFound, "not found"}
	errNotYours = &Error{http.StatusForbidden, "this is not yours"}
)

// User writes.
type User struct {
	ID       int
	Username string
	Email    string
	Pro      bool // has a plan with higher limits

	password  []byte // hashed
	following map[string]bool
}

// Profile is what others see of a user.
type Profile struct {
	Username  string `json:"username"`
	Following bool   `json:"following"`
}

// Article is an article as one user sees it, or a guest.
type Article struct {
	Slug           string    `json:"slug"`
	Title          string    `json:"title"`
	Body           string    `json:"body"`
	Tags           []string  `json:"tagList"`
	CreatedAt      time.Time `json:"createdAt"`
	Favorited      bool      `json:"favorited"`
	FavoritesCount int       `json:"favoritesCount"`
	Author         Profile   `json:"author"`

	favorites map[int]bool // by user
	comments  []Comment
}

// Comment is a comment on an article.
type Comment struct {
	ID        int       `json:"id"`
	CreatedAt time.Time `json:"createdAt"`
	Body      string    `json:"body"`
	Author    Profile   `json:"author"`
}

// Filter chooses articles. The zero Filter chooses all.
type Filter struct {
	Tag, Author, Favorited string
	Feed                   bool // of those that the reader follows
}

// Store keeps everything, in memory. It is safe for concurrent use once Now is set.
type Store struct {
	Now func() time.Time

	mu       sync.Mutex
	ids      int
	users    []*User
	articles []*Article
}

// hash is far too quick for a real service.
func hash(password string) []byte {
	key, _ := pbkdf2.Key(sha256.New, password, []byte("salt"), 10, 32) // fails only if the length makes no sense
	return key
}

// Register adds a user.
func (s *Store) Register(username, email, password string, pro bool) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.users, func(u *User) bool { return u.Username == username || u.Email == email }) {
		return User{}, errTaken
	}
	s.ids++
	user := &User{ID: s.ids, Username: username, Email: email, Pro: pro, password: hash(password),
		following: map[string]bool{}}
	s.users = append(s.users, user)
	return *user, nil
}

// Login returns the user with an address and a password.
func (s *Store) Login(email, password string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, user := range s.users {
		if user.Email == email && subtle.ConstantTimeCompare(user.password, hash(password)) == 1 {
			return *user, nil
		}
	}
	return User{}, errLogin
}

// User returns the user with an id.
func (s *Store) User(id int) (User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if user := s.user(id); user != nil {
		return *user, true
	}
	return User{}, false
}

func (s *Store) user(id int) *User {
	for _, user := range s.users {
		if user.ID == id {
			return user
		}
	}
	return nil
}

// Follow has a reader follow a user, or no longer.
func (s *Store) Follow(reader int, username string, follow bool) (Profile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.users, func(u *User) bool { return u.Username == username }) {
		return Profile{}, errNotFound
	}
	s.user(reader).following[username] = follow
	return s.profile(reader, username), nil
}

func (s *Store) profile(reader int, username string) Profile {
	user := s.user(reader)
	return Profile{Username: username, Following: user != nil && user.following[username]}
}

// Write adds an article.
func (s *Store) Write(author int, title, body string, tags []string) (Article, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slug := strings.ToLower(strings.Join(strings.Fields(title), "-"))
	if s.article(slug) != nil {
		return Article{}, &Error{http.StatusUnprocessableEntity, "this title is taken"}
	}
	article := &Article{Slug: slug, Title: title, Body: body, Tags: append([]string{}, tags...), CreatedAt: s.Now(),
		Author: Profile{Username: s.user(author).Username}, favorites: map[int]bool{}}
	s.articles = append(s.articles, article)
	return s.view(author, article), nil
}

func (s *Store) article(slug string) *Article {
	for _, article := range s.articles {
		if article.Slug == slug {
			return article
		}
	}
	return nil
}

// view returns an article as a reader sees it.
func (s *Store) view(reader int, article *Article) Article {
	view := *article
	view.Author = s.profile(reader, article.Author.Username)
	view.Favorited, view.FavoritesCount = article.favorites[reader], len(article.favorites)
	return view
}

// Articles returns those that a filter chooses, the newest first.
func (s *Store) Articles(reader int, filter Filter) []Article {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []Article{}
	for _, article := range slices.Backward(s.articles) {
		view := s.view(reader, article)
		if (filter.Tag == "" || slices.Contains(view.Tags, filter.Tag)) &&
			(filter.Author == "" || view.Author.Username == filter.Author) &&
			(filter.Favorited == "" || s.favors(filter.Favorited, article)) &&
			(!filter.Feed || view.Author.Following) {
			found = append(found, view)
		}
	}
	return found
}

func (s *Store) favors(username string, article *Article) bool {
	return slices.ContainsFunc(s.users, func(u *User) bool { return u.Username == username && article.favorites[u.ID] })
}

// Read returns an article.
func (s *Store) Read(reader int, slug string) (Article, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if article := s.article(slug); article != nil {
		return s.view(reader, article), nil
	}
	return Article{}, errNotFound
}

// Delete removes an article of its author.
func (s *Store) Delete(author int, slug string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	article := s.article(slug)
	switch {
	case article == nil:
		return errNotFound
	case article.Author.Username != s.user(author).Username:
		return errNotYours
	}
	s.articles = slices.DeleteFunc(s.articles, func(a *Article) bool { return a == article })
	return nil
}

// Favor has an article be a favourite of a reader, or no longer.
func (s *Store) Favor(reader int, slug string, favor bool) (Article, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	article := s.article(slug)
	switch {
	case article == nil:
		return Article{}, errNotFound
	case favor:
		article.favorites[reader] = true
	default:
		delete(article.favorites, reader)
	}
	return s.view(reader, article), nil
}

// Comment adds a comment to an article.
func (s *Store) Comment(author int, slug, body string) (Comment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	article := s.article(slug)
	if article == nil {
		return Comment{}, errNotFound
	}
	s.ids++
	comment := Comment{ID: s.ids, CreatedAt: s.Now(), Body: body, Author: Profile{Username: s.user(author).Username}}
	article.comments = append(article.comments, comment)
	return comment, nil
}

// Comments returns those on an article.
func (s *Store) Comments(slug string) ([]Comment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	article := s.article(slug)
	if article == nil {
		return nil, errNotFound
	}
	return append([]Comment{}, article.comments...), nil
}

// DeleteComment removes a comment of its author.
func (s *Store) DeleteComment(author int, slug string, id int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	article := s.article(slug)
	if article == nil {
		return errNotFound
	}
	i := slices.IndexFunc(article.comments, func(c Comment) bool { return c.ID == id })
	switch {
	case i < 0:
		return errNotFound
	case article.comments[i].Author.Username != s.user(author).Username:
		return errNotYours
	}
	article.comments = slices.Delete(article.comments, i, i+1)
	return nil
}
