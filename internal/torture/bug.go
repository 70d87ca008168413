package torture

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/lua"
)

// Bug is a mistake that is planted around a limiter: between the script and Redis, or between the limiter and its Redis
// client. The limiter and the script are the real ones, so no source is changed and nothing is compiled.
type Bug struct {
	// Lua stands before the script, which it deceives by what the script's contract names, in the head of
	// lua/decide.lua. It may change KEYS and ARGV, and assign functions to two variables:
	//
	//	run = function(args, call)       replaces each command that the script runs. The words are args; call runs it.
	//	answer = function(reply)         returns what the script replies instead of reply.
	Lua string `json:",omitempty"`
	// Timeout is the limiter's, unless 0, instead of the one that its callers expect.
	Timeout time.Duration `json:",omitempty"`
	// Forgets is the code of an error, such as TRYAGAIN, that the limiter gets as another one, which it does not know.
	Forgets string `json:",omitempty"`
}

// deceived is the script with what deceives it in place of the first %s.
const deceived = `
local KEYS, ARGV, run, answer = KEYS, ARGV, nil, nil
do
%s
end
local redis = setmetatable({
  call = run and function(...) return run({ ... }, redis.call) end or nil,
  pcall = run and function(...) return run({ ... }, redis.pcall) end or nil,
}, { __index = redis })
local reply = (function()
%s
end)()
return answer and answer(reply) or reply
`

// connect makes a limiter with a bug, or without one if bug is zero. If the bug needs a client, Redis must answer, and
// the client is open until the process ends.
func connect(url string, bug Bug, opts ...core.Option) (*core.Limiter, error) {
	if bug.Timeout > 0 {
		opts = append(opts, core.WithTimeout(bug.Timeout))
	}
	if bug.Lua+bug.Forgets == "" {
		return core.Connect(url, opts...)
	}
	option, err := core.ClientOption(url)
	if err != nil {
		return nil, err
	}
	client, err := rueidis.NewClient(option)
	for range 10 { // on a busy machine, Redis may not answer in time
		if err == nil {
			break
		}
		client, err = rueidis.NewClient(option)
	}
	if err != nil {
		return nil, err
	}
	script := lua.Decide
	if bug.Lua != "" {
		script = fmt.Sprintf(deceived, bug.Lua, script)
	}
	sum := sha1.Sum([]byte(script))
	return core.New(&deceiver{client, bug, script, hex.EncodeToString(sum[:])}, opts...)
}

// deceiver is a Redis client with a bug.
type deceiver struct {
	rueidis.Client
	bug          Bug
	script, sha1 string
}

// Do replaces a call of the script by one of the script with the bug.
func (d *deceiver) Do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	return d.result(ctx, d.Client.Do(ctx, d.command(command)))
}

// DoMulti is Do for several commands.
func (d *deceiver) DoMulti(ctx context.Context, commands ...rueidis.Completed) []rueidis.RedisResult {
	for i := range commands {
		commands[i] = d.command(commands[i])
	}
	results := d.Client.DoMulti(ctx, commands...)
	for i := range results {
		results[i] = d.result(ctx, results[i])
	}
	return results
}

func (d *deceiver) command(command rueidis.Completed) rueidis.Completed {
	words := command.Commands()
	if len(words) < 3 || words[0] != "EVAL" && words[0] != "EVALSHA" {
		return command
	}
	n, err := strconv.Atoi(words[2])
	if err != nil || len(words) < 3+n {
		return command
	}
	keys, args := words[3:3+n], words[3+n:]
	if words[0] == "EVAL" {
		return d.B().Eval().Script(d.script).Numkeys(int64(n)).Key(keys...).Arg(args...).Build()
	}
	return d.B().Evalsha().Sha1(d.sha1).Numkeys(int64(n)).Key(keys...).Arg(args...).Build()
}

func (d *deceiver) result(ctx context.Context, result rueidis.RedisResult) rueidis.RedisResult {
	rejection, is := rueidis.IsRedisErr(result.Error())
	if d.bug.Forgets == "" || !is || !strings.HasPrefix(rejection.Error(), d.bug.Forgets+" ") {
		return result
	}
	return d.Client.Do(ctx, d.B().Arbitrary("NO-SUCH-COMMAND").Build())
}
