package core

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/lua"
)

// redisLogs asks the scripts in Redis. Each call is one EVALSHA, which rueidis sends together with those of other
// goroutines on a few persistent connections.
type redisLogs struct {
	connection *connection
	decision   *rueidis.Lua
	peeking    *rueidis.Lua
	prefix     string
	stem       string // of all ids this limiter makes
	ids        atomic.Uint64
}

func newRedisLogs(connection *connection, prefix string) *redisLogs {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	return &redisLogs{
		connection: connection,
		decision:   rueidis.NewLuaScript(lua.Decide),
		peeking:    rueidis.NewLuaScript(lua.Peek),
		prefix:     prefix,
		stem:       base64.RawURLEncoding.EncodeToString(random[:]),
	}
}

// loadScripts gives every node the scripts, so that the first calls need not send their texts. It is best effort: a node
// that lacks a script says NOSCRIPT to a call and is sent the text then.
func loadScripts(client rueidis.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, node := range client.Nodes() {
		for _, text := range []string{lua.Decide, lua.Peek} {
			node.Do(ctx, node.B().ScriptLoad().Script(text).Build())
		}
	}
}

func (r *redisLogs) decide(ctx context.Context, key string, cost int, limits []Limit) (Decision, error) {
	id := strconv.AppendUint([]byte(r.stem), r.ids.Add(1), 36)
	return r.ask(ctx, r.decision, id, key, cost, limits)
}

func (r *redisLogs) peek(ctx context.Context, key string, limits []Limit) (Decision, error) {
	return r.ask(ctx, r.peeking, nil, key, 1, limits)
}

// ask calls a script, with the keys and arguments of its head comment; id is nil when it takes none.
func (r *redisLogs) ask(ctx context.Context, script *rueidis.Lua, id []byte, key string, cost int, limits []Limit) (Decision, error) {
	client, err := r.connection.get()
	if err != nil {
		return Decision{}, unavailable(err)
	}

	// All words of the command are cut from one string, so that they cost one allocation.
	text, ends := make([]byte, 0, 256), make([]int, 0, 16)
	for _, limit := range limits {
		text = appendLogKey(text, r.prefix, key, limit)
		ends = append(ends, len(text))
	}
	if id != nil {
		text = append(text, id...)
		ends = append(ends, len(text))
	}
	for _, limit := range limits {
		text = strconv.AppendInt(text, int64(limit.Max), 10)
		ends = append(ends, len(text))
		text = strconv.AppendInt(text, limit.Window.Microseconds(), 10)
		ends = append(ends, len(text))
	}
	if cost > 1 {
		text = append(text, '1') // request
		ends = append(ends, len(text))
		text = strconv.AppendInt(text, int64(cost), 10)
		ends = append(ends, len(text))
	}
	words, all, start := make([]string, 0, 16), string(text), 0
	for _, end := range ends {
		words = append(words, all[start:end])
		start = end
	}

	message, err := script.Exec(ctx, client, words[:len(limits)], words[len(limits):]).ToMessage()
	if err != nil {
		return Decision{}, unavailable(err)
	}
	decision, err := decodeReply(message, limits)
	if err != nil {
		return Decision{}, unavailable(fmt.Errorf("not a reply of exactlimit's script: %w", err))
	}
	return decision, nil
}

func decodeReply(message rueidis.RedisMessage, limits []Limit) (Decision, error) {
	if message.IsInt64() && len(limits) == 1 {
		remaining, err := message.AsInt64()
		if err != nil {
			return Decision{}, err
		}
		return decodeInteger(remaining, limits[0])
	}
	list, err := message.AsIntSlice()
	if err != nil {
		return Decision{}, err
	}
	return decodeList(list, limits)
}

func (r *redisLogs) reset(ctx context.Context, key string, limits []Limit) error {
	client, err := r.connection.get()
	if err != nil {
		return unavailable(err)
	}
	names := make([]string, len(limits))
	for i, limit := range limits {
		names[i] = string(appendLogKey(nil, r.prefix, key, limit))
	}
	if err := client.Do(ctx, client.B().Unlink().Key(names...).Build()).Error(); err != nil {
		return unavailable(err)
	}
	return nil
}
