#!lua flags=no-writes
-- peek: what decide would answer to one request of cost one, without asking it. The flags above make the server refuse
-- any write, so entries that have left the window are passed over here instead of removed.
--
-- KEYS, ARGV, clock   as in decide.lua, without an id: for each log max and window.
-- Reply               always the list: 1 or 0 (it would be granted or not), then remaining, retry, reset for each log.

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local reply = { 1 }
for i = 1, #KEYS do
  local window = tonumber(ARGV[2 * i])
  local after = string.format('(%.0f', now - window)
  local remaining = ARGV[2 * i - 1] - call('ZCOUNT', KEYS[i], after, '+inf')
  local retry, reset = 0, 0
  if remaining < 1 then
    reply[1] = 0
    retry = window - (now - call('ZRANGEBYSCORE', KEYS[i], after, '+inf', 'WITHSCORES', 'LIMIT', 0 - remaining, 1)[2])
  end
  local newest = call('ZREVRANGEBYSCORE', KEYS[i], '+inf', after, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if newest then
    reset = window - (now - newest)
  end
  reply[#reply + 1] = remaining
  reply[#reply + 1] = math.min(retry, window) -- of entries from the future, see decide.lua
  reply[#reply + 1] = math.min(reset, window)
end
return reply
