-- decide: admits requests to sliding window logs, to all of them or to none, and charges what it admits.
--
-- A log is a sorted set with one entry for each admitted unit. The score is the moment of admission, in microseconds
-- of this server's clock; the member is the unit's id. The window is half open: an entry counts until just before
-- score + window.
--
-- KEYS    the logs, each once, all of one hash slot
-- ARGV    id         of this call's first unit, used by no other call; the unit u after it is "id:u"
--         for each log, in the order of KEYS:
--           max      units the log holds in any window
--           window   in microseconds, whole milliseconds
--         then, both 1 when left out:
--         requests   how many ask, each for itself, first come first served: as many as fit are granted
--         cost       units each request takes, all or none; at most the smallest max
--
-- Reply   An integer n: there is one log, every request is granted, and n units remain, enough for one request more.
--         Otherwise a list: how many requests are granted, then three integers for each log:
--           remaining  units free after the grants; below zero when max was lowered under what is there
--           retry      microseconds until one request more fits this log; 0 when it does now
--           reset      microseconds until this log is empty, if nothing more is admitted
--
-- Clock   TIME, read once. Where it steps back, entries from what is now the future count too, so no window is overfilled.
--         A call that finds such entries in a log without room enters them anew, as of now: they leave within a window
--         from then, not when the clock is back where it was. Where it steps forward, entries leave as much earlier; so too
--         where it steps back and forth within a window, and up to max more are admitted.
--         Numbers go to redis.call as they are, which prints all their digits, slowly; tostring and .. would cut them to
--         fourteen.
-- Replay  A call sent again under its id, because the reply was lost, grants again what it granted and charges nothing
--         twice, as long as what it charged is still in the windows: ZADD NX leaves known ids alone, and a log without
--         room is searched for them before it denies. Of a replay, the short reply stands for a reset of one window.
-- Expiry  No log expires before its newest entry leaves, and each does within a window and a second after that. Setting the
--         expiry is a seventh of the work, so it is set to two windows from now when a call has removed entries or adds
--         to a log of one. A call that removed nothing came within a window of the oldest entry, at which the expiry was
--         last set or later, so what it adds is safe. The first entry of all sets one window: most logs of a flood get no
--         second. A second of slack, as expiry has a clock of its own, in milliseconds. GT, because after a step back the
--         newest entry need not be the one just added. Who removes entries in any other way has to set it anew.
-- Failure Nothing is written before all arguments are read and all keys are seen to be sorted sets.

local call = redis.call
local id, logs = ARGV[1], #KEYS
if #ARGV < 1 + 2 * logs then
  return redis.error_reply('ERR exactlimit: each log needs a max and a window')
end
local slack = 1000
local max, window = ARGV[2] + 0, ARGV[3] + 0 -- of the first log
for i = 4, #ARGV do
  local _ = ARGV[i] + 0 -- fails here, before anything is written, if it is no number
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local stamp = #time[2] == 6 and time[1] .. time[2] or string.format('%.0f', now)

-- Count and clean. All are counted first, which fails for a key that is no log, before anything is written.
local count = logs > 1 and {}
for i = 2, logs do
  count[i] = call('ZCARD', KEYS[i])
end
local held = call('ZCARD', KEYS[1])
local gone = call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
held = held - gone

-- Nearly every call is one request of cost one, to one log that has room for it and for another. What follows would do
-- the same in more time.
if #ARGV == 3 and max - held > 1 then
  local added = call('ZADD', KEYS[1], 'NX', stamp, id)
  if held == 0 then
    call('PEXPIRE', KEYS[1], window / 1000 + slack)
  elseif gone > 0 or held == 1 then
    call('PEXPIRE', KEYS[1], 2 * window / 1000 + slack, 'GT')
  end
  return max - held - added
end

local removed = { gone }
count = count or {}
count[1] = held
for i = 2, logs do
  removed[i] = call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - ARGV[2 * i + 1])
  count[i] = count[i] - removed[i]
end

local requests, cost = (ARGV[2 * logs + 2] or 1) + 0, (ARGV[2 * logs + 3] or 1) + 0
local granted = requests
for i = 1, logs do
  local room = ARGV[2 * i] - count[i]
  if room < requests * cost then
    local known = 0
    while known < requests and call('ZSCORE', KEYS[i], known == 0 and id or id .. ':' .. known * cost) do
      known = known + 1
    end
    granted = math.min(granted, known + math.max(0, math.floor(room / cost)))
  end
end

-- Update: from the first ZADD on, nothing may fail.
local units, charged = granted * cost, 0
for i = 1, logs do
  local added = 0
  if units == 1 then
    added = call('ZADD', KEYS[i], 'NX', stamp, id)
  else
    local stem = id .. ':'
    for first = 0, units - 1, 1000 do -- unpack cannot push more than a few thousand values
      local entries, n = {}, 0
      for u = first, math.min(first + 1000, units) - 1 do
        entries[n + 1], entries[n + 2] = stamp, u == 0 and id or stem .. u
        n = n + 2
      end
      added = added + call('ZADD', KEYS[i], 'NX', unpack(entries))
    end
  end
  local length = ARGV[2 * i + 1] / 1000
  if count[i] == 0 then
    if units > 0 then
      call('PEXPIRE', KEYS[i], (units == 1 and length or 2 * length) + slack)
    end
  elseif removed[i] > 0 or units > 0 and count[i] == 1 then
    call('PEXPIRE', KEYS[i], 2 * length + slack, 'GT')
  end
  count[i] = count[i] + added
  charged = charged + added
end

if logs == 1 and granted == requests and max - count[1] >= cost then
  return max - count[1]
end

local function leaves(i, entry)
  -- In this order no difference leaves the 53 bits that a number holds exactly, whatever the window.
  return ARGV[2 * i + 1] - (now - call('ZRANGE', KEYS[i], entry, entry, 'WITHSCORES')[2])
end

-- Enters what is in the future as of now. The newest entry is then of now.
local function restamp(i)
  local ids = call('ZRANGEBYSCORE', KEYS[i], '(' .. stamp, '+inf')
  for first = 1, #ids, 1000 do
    local entries, n = {}, 0
    for u = first, math.min(first + 999, #ids) do
      entries[n + 1], entries[n + 2] = stamp, ids[u]
      n = n + 2
    end
    call('ZADD', KEYS[i], 'XX', unpack(entries))
  end
  call('PEXPIRE', KEYS[i], 2 * ARGV[2 * i + 1] / 1000 + slack)
end

local reply = { granted }
for i = 1, logs do
  local window = ARGV[2 * i + 1] + 0
  local remaining, retry, reset = ARGV[2 * i] - count[i], 0, 0
  if remaining < cost then
    retry = leaves(i, cost - remaining - 1)
  end
  if charged > 0 then
    reset = window
  elseif count[i] > 0 then
    reset = leaves(i, -1)
  end
  if retry > window or reset > window then
    restamp(i)
    reset = window
    if remaining < cost then
      retry = leaves(i, cost - remaining - 1)
    end
  end
  reply[#reply + 1] = remaining
  reply[#reply + 1] = retry
  reply[#reply + 1] = reset
end
return reply
