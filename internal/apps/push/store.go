package push

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"sync"
	"time"
)

// User may log in.
type User struct {
	ID    uint   `json:"id"`
	Name  string `json:"name"`
	Admin bool   `json:"admin"`

	password []byte // hashed
}

// Application is what sends messages, by a token of its own.
type Application struct {
	ID    uint   `json:"id"`
	Token string `json:"token"`
	Name  string `json:"name"`
	Image string `json:"image"`

	owner uint
}

// Client is what receives messages, by a token of its own.
type Client struct {
	ID    uint   `json:"id"`
	Token string `json:"token"`
	Name  string `json:"name"`

	owner uint
}

// Message has been sent to the owner of an application.
type Message struct {
	ID          uint      `json:"id"`
	Application uint      `json:"appid"`
	Message     string    `json:"message"`
	Title       string    `json:"title"`
	Priority    int       `json:"priority"`
	Date        time.Time `json:"date"`

	owner uint
}

// Store keeps everything, in memory. Make it with NewStore. It is safe for concurrent use once its fields are set.
type Store struct {
	Token func() string    // returns a new secret
	Now   func() time.Time // returns the date of a message

	mu           sync.Mutex
	ids          uint
	users        []User
	applications []Application
	clients      []Client
	messages     []Message
	images       map[string][]byte
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{Token: rand.Text, Now: time.Now, images: map[string][]byte{}}
}

// hash is far too quick for a real service.
func hash(password string) []byte {
	key, _ := pbkdf2.Key(sha256.New, password, []byte("salt"), 10, 32) // fails only if the length makes no sense
	return key
}

func (s *Store) nextID() uint {
	s.ids++
	return s.ids
}

func (s *Store) addUser(name, password string, admin bool) (User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.users, func(u User) bool { return u.Name == name }) {
		return User{}, false
	}
	user := User{ID: s.nextID(), Name: name, Admin: admin, password: hash(password)}
	s.users = append(s.users, user)
	return user, true
}

func (s *Store) login(name, password string) (User, bool) {
	user, ok := find(s, &s.users, func(u User) bool { return u.Name == name })
	return user, ok && subtle.ConstantTimeCompare(user.password, hash(password)) == 1
}

func (s *Store) addApplication(owner uint, name string) Application {
	s.mu.Lock()
	defer s.mu.Unlock()
	app := Application{ID: s.nextID(), Token: "A" + s.Token(), Name: name, Image: "static/default.png", owner: owner}
	s.applications = append(s.applications, app)
	return app
}

func (s *Store) addClient(owner uint, name string) Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	client := Client{ID: s.nextID(), Token: "C" + s.Token(), Name: name, owner: owner}
	s.clients = append(s.clients, client)
	return client
}

func (s *Store) addMessage(app Application, m Message) Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.ID, m.Application, m.Date, m.owner = s.nextID(), app.ID, s.Now(), app.owner
	s.messages = append(s.messages, m)
	return m
}

func (s *Store) setImage(owner, id uint, image []byte) (Application, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.applications, func(a Application) bool { return a.ID == id && a.owner == owner })
	if i < 0 {
		return Application{}, false
	}
	app := &s.applications[i]
	app.Image = "image/" + s.Token() + ".png"
	s.images[app.Image] = image
	return *app, true
}

// find returns the first element of a list of the store for which the function returns true.
func find[T any](s *Store, in *[]T, is func(T) bool) (found T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(*in, is); i >= 0 {
		return (*in)[i], true
	}
	return found, false
}

// all returns the elements of a list of the store for which the function returns true, the newest first.
func all[T any](s *Store, in *[]T, are func(T) bool) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []T{}
	for _, element := range slices.Backward(*in) {
		if are(element) {
			found = append(found, element)
		}
	}
	return found
}

// remove removes the elements of a list of the store for which the function returns true, and reports whether there
// were any.
func remove[T any](s *Store, from *[]T, are func(T) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(*from)
	*from = slices.DeleteFunc(*from, are)
	return len(*from) < before
}
