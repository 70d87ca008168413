package dispatch

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"
)

// run sends calls of the script together, and stores the results in them. It names the script by its SHA-1. If a server
// does not have the script, run sends the failed calls again, the first of them with the text of the script. If a
// server rejects the text, because the user has no right to EVAL, its error is the result of all the failed calls.
func (d *Dispatcher[Q]) run(ctx context.Context, client rueidis.Client, calls []*call[Q]) {
	lacksScript := func(c *call[Q]) bool { return noScript(c.result.Error()) }
	for d.do(ctx, client, calls, false); slices.ContainsFunc(calls, lacksScript); {
		calls = slices.DeleteFunc(slices.Clone(calls), func(c *call[Q]) bool { return !lacksScript(c) })
		d.do(ctx, client, calls, true)
		first := calls[0].result
		if _, rejected := rueidis.IsRedisErr(first.Error()); !rejected {
			continue
		}
		for _, c := range calls {
			if lacksScript(c) {
				c.result = first
			}
		}
	}
}

// do sends calls of the script by its SHA-1. If withText is true, it sends the first call with the text.
func (d *Dispatcher[Q]) do(ctx context.Context, client rueidis.Client, calls []*call[Q], withText bool) {
	defer recoverPanic(func(err error) {
		for _, c := range calls {
			c.result = rueidis.NewErrorResult(err)
		}
	})
	if len(calls) == 1 {
		calls[0].result = client.Do(ctx, d.command(client, calls[0], withText))
		return
	}
	commands := make([]rueidis.Completed, len(calls))
	for i, c := range calls {
		commands[i] = d.command(client, c, withText && i == 0)
	}
	for i, result := range client.DoMulti(ctx, commands...) {
		calls[i].result = result
	}
}

// command returns the command for a call, with the text of the script or its SHA-1.
func (d *Dispatcher[Q]) command(client rueidis.Client, c *call[Q], withText bool) rueidis.Completed {
	if withText {
		return client.B().Eval().Script(d.Script).Numkeys(int64(len(c.keys))).Key(c.keys...).Arg(c.args...).Build()
	}
	return client.B().Evalsha().Sha1(d.sha1).Numkeys(int64(len(c.keys))).Key(c.keys...).Arg(c.args...).Build()
}

// probe makes a call that tests everything that other calls need: the connection, the user's rights, the script, and
// that the server accepts writes.
func (l *link[Q]) probe(ctx context.Context, hashTag string) error {
	d := l.d
	client, err := d.Client()
	if err != nil {
		return err
	}
	if d.nodes.link(slotIn(client, hashTag)) != l {
		return nil // the slot now has another link, so the probe would say nothing about this one
	}
	keys, args := d.Probe(hashTag)
	c := &call[Q]{keys: keys, args: args}
	d.run(ctx, client, []*call[Q]{c})
	err = c.result.Error()
	switch {
	case tryAgain(err):
		return nil // the slot is moving to another node, but other keys of the link can be used
	case readOnly(err):
		d.quit(ctx, client, keys[0])
	}
	return err
}

// quit closes a connection to a server that is no longer the master. The client then makes a new one, which may reach
// the new master at the same address. The command has a key, which Redis ignores, because a client with several
// connections picks one at random for a command with a key, and always the same one for a command without.
func (d *Dispatcher[Q]) quit(ctx context.Context, client rueidis.Client, key string) {
	defer recoverPanic(func(error) {})
	client.Do(ctx, client.B().Arbitrary("QUIT").Keys(key).Build())
}

// recoverPanic must be deferred. It recovers from a panic in the Redis client, which the user may have written, and
// calls f with an error.
func recoverPanic(f func(error)) {
	if p := recover(); p != nil {
		f(fmt.Errorf("the Redis client panicked: %v", p))
	}
}
