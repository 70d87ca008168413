package push

import (
	"net/http"
	"slices"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/websocket"
)

// streams has the WebSockets on which users wait for messages.
type streams struct {
	mu   sync.Mutex
	open []*stream
}

// stream is one WebSocket.
type stream struct {
	user     uint
	conn     *websocket.Conn
	messages chan Message
}

func (s *streams) send(user uint, message Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stream := range s.open {
		if stream.user == user {
			select {
			case stream.messages <- message:
			default: // its client reads too slowly
			}
		}
	}
}

func (s *streams) remove(closed *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(other *stream) bool { return other == closed })
	close(closed.messages)
}

// connect makes the connection of a request a stream, or answers the request. A stream gets messages from before its
// client learns that it is open.
func (s *streams) connect(c *gin.Context, fields http.Header) *stream {
	opened := &stream{user: callerOf(c).user.ID, messages: make(chan Message, 16)}
	s.mu.Lock()
	s.open = append(s.open, opened)
	s.mu.Unlock()
	upgrader := websocket.Upgrader{}
	conn, err := upgrader.Upgrade(c.Writer, c.Request, fields)
	if err != nil {
		s.remove(opened)
		c.Error(err)
		return nil
	}
	opened.conn = conn
	return opened
}

// read waits until the client leaves.
func (s *streams) read(stream *stream) {
	defer s.remove(stream)
	for {
		if _, _, err := stream.conn.NextReader(); err != nil {
			return
		}
	}
}

// write sends messages until the client leaves.
func (stream *stream) write() {
	defer stream.conn.Close()
	for message := range stream.messages {
		if stream.conn.WriteJSON(message) != nil {
			return
		}
	}
}

// stream leaves the connection to two goroutines, and returns.
func (a *api) stream(c *gin.Context) {
	if stream := a.streams.connect(c, nil); stream != nil {
		go stream.write()
		go a.streams.read(stream)
	}
}
