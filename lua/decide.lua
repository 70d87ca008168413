-- decide answers a batch of questions about sliding window logs, atomically. "Reply" describes the errors of single
-- questions, and "Failure" the errors of the whole call.
--
-- A log is a sorted set. An entry is the admission of one request, or of several equal requests in one call. Its score
-- is the time of admission, in microseconds of this server's clock. Its member is an id, or "id*n" if it weighs n units
-- instead of one. The window is half open: an entry counts until just before score + window. A request that cost more
-- than it was charged has a second entry, whose score is the time of the settle. So a log may hold more units than max.
--
-- A log of requests in flight has the same format. Its window is the lease. Its entries are renewed while their
-- requests run, and then given back.
--
-- A log may have three other members, called marks. Their scores are negative; the scores of entries are not.
--
--   *   the log has entries that weigh more than one unit; minus the score is the number of units that ZCARD does not
--       count
--   ~   units of the log may be given back before they expire, so a denial may end early; the score is -1
--   !n  the log is banned for n microseconds; minus the score is the time at which the ban ends
--
-- KEYS    the logs of all questions, in the order of the questions; all are in one hash slot
-- ARGV    id         of this call, different for each call; the entry of question q has the id "id.q", from q = 1
--         "again"    if an earlier attempt of this call may have been executed; or
--         "known"    the same, and no caller waits for the call: grants what that attempt has granted, and no more
--         groups     of questions that differ only in their logs. Each group begins with a verb:
--           admit    questions, limits, requests, cost, provisional (0 or 1), then max, window and ban of each limit
--           one      questions, max, window: short for admit with 1 limit, 1 request, cost 1, not provisional, ban 0
--           peek     questions, limits, then max, window and ban of each limit
--           settle   limits, id.q, requests, position, cost, actual, then the window of each limit: changes the charge
--                    of one request from cost to actual. The request is at this position, from 0, among the requests
--                    that share the entry id.q. Let "own" be "id.q" if it is the only one, or else "id.q:position".
--                      actual < cost   an entry "own=" with the same score replaces its entry, or none if actual is 0.
--                                      If other requests share its entry, each of them gets an entry
--                                      "id.q:position". If its entry is not in the log, nothing is given back.
--                      actual > cost   an entry "own+" is added for the difference, even if the first one has expired.
--                    Repeating this with the same actual changes nothing, as long as an entry "own+" is in a log.
--           renew    logs, entries, the members of the entries, then the window of each log: moves the entries to the
--                    present, in the logs that have them, unless they have expired
--           reset    logs: deletes them, unless the call is "known"
--           probe    has two keys, the second of which never exists: runs every command that the other verbs run, and
--                    changes nothing
--         Windows and bans are whole milliseconds, given in microseconds. A question of admit stands for the given
--         number of requests. As many as fit are granted, from the first on. Each of them is charged its cost in all
--         logs of the question, or in none.
--
-- Reply   a list with one element for each question:
--           an integer from 0   admit: there is one log, every request is granted, and this many units remain, enough
--                               for another request. settle: the number of units given back or charged. renew: the
--                               number of entries moved, in all logs. reset, probe: 0.
--           -1                  the budget of the call was used up before this question: ask it again
--           a list              admit, peek: how many requests are granted, then three integers for each log:
--                                 remaining  units free after the grants; below zero if there are more than max
--                                 retry      microseconds until one more request fits this log, 0 if it fits now;
--                                            negative if units of the log may be given back before that
--                                 reset      microseconds until the log is empty, if nothing more is admitted
--                               If any log is banned, these integers ignore bans, and there is one more for each log:
--                               the microseconds until its ban ends, or 0. Requests that are granted came before the
--                               ban, and the others during it.
--           a string            the error of this question alone: one of its logs is not a sorted set, or is damaged,
--                               or would hold more than 2^53 units. Nothing was charged.
--
-- Ban     A question of admit bans each log that has no room for the first request that is not granted, if the ban of
--         its limit is not 0 and the log is not banned yet. The ban belongs to the log: until it ends or reset deletes
--         the log, no question has room in the log, even if its own limit has no ban. Nothing prolongs a ban. Units
--         that are given back do not end it, and neither do entries that expire.
-- Clock   TIME, read once. If the clock steps back, some entries are in the future. They still count, so no window is
--         overfilled. A question about a log without room, or one that renews an entry in the future, moves them to
--         the present, so that they expire a window from now. A ban that would last longer than n microseconds from
--         now is moved in the same way. If the clock steps forward, entries expire and bans end too early by the step.
-- Retry   A call that is sent again, with "again", grants what the earlier attempt granted, and charges nothing twice,
--         as long as the entries of that attempt have not expired. If it overtakes the earlier attempt, the earlier
--         attempt charges nothing twice either, if as many requests fit as before, and no units of them were given
--         back in between. If another number fits, the earlier attempt charges these as well, until they expire: at
--         most the requests of the question, and never more than max. What an integer in the reply says about a log
--         may be a round trip old. If the units of a log are not known, its remaining is 0, and the reply does not
--         tell of bans. A settle may be repeated in a call with "again" or without.
-- Time    A call has a budget, so that it never occupies the server for long: 1000 minus 7 for each key, and at least
--         100. Reading or removing an entry takes 1, moving it to the present 2, cleaning a log 8 (but 0 if it is done
--         before most functions are made), and giving back 1 for each request of the entry. Renewing an entry takes
--         nothing from the budget, but is as much work as a key, so a call should have few of both. Once the budget is
--         used up, expired entries stay in their logs, but their units are not counted. In a log with the mark *, the
--         expired entries must be read to know their units. As long as some are left, the reply is -1, so a question
--         about such a log with n expired entries is answered after about n/1000 calls. If finding retry would take
--         more than the budget, retry is a time at which the request is still denied.
-- Expiry  No log expires before its newest entry does, or before its ban ends. Each log expires within two windows and
--         a second after an entry was added, renewed, or moved because the clock stepped back, or after a question
--         failed, or a second after its ban (up to a window later if the clock stepped back), whichever is later.
--         PEXPIRE is a seventh of the work of an admission, so it runs only
--           - for the first entry: one window from now, because most logs of a flood get no second entry
--           - for the second entry: two windows from now
--           - when entries have expired: two windows from now, or from the oldest entry that is left if none is added
--           - when units were given back: two windows from the oldest entry that is left
--           - when a settle has added an entry: one window from now if it is the first entry, and otherwise two windows
--           - when entries are renewed: two windows from now
--           - when entries were moved from the future to the present: two windows from now
--           - when a log is banned: to the end of the ban
--           - when a question fails after expired entries were removed: two windows from now
--         If a call finds no expired entry, the oldest entry is less than a window old, and PEXPIRE has run for two
--         windows since that entry was added. So the log outlives the entry that the call adds. A second is added each
--         time, because the expiry of keys uses another clock. GT is used because, after the clock has stepped back,
--         the newest entry may not be the last one that was added.
-- Failure A call with wrong arguments fails before anything is written. If the server rejects writes, or the user has
--         no right to a command, the whole call fails. It then takes back what it has charged, if the server allows
--         this. Units that a settle in the call has given back stay given back, and entries that it has renewed stay
--         renewed. A question writes nothing before all of its logs are known to be sorted sets.

local call, try = redis.call, redis.pcall

-- Numbers are formatted by format('%.0f', n), because tostring and .. would cut them to fourteen digits. A number that
-- is passed to call keeps all digits, but Redis takes longer to format it.
local format, match = string.format, string.match
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local stamp = #time[2] == 6 and time[1] .. time[2] or format('%.0f', now)

local id, again, knownOnly, keys = ARGV[1], false, false, #KEYS -- known: granted by an earlier attempt
local budget = keys < 128 and 1000 - 7 * keys or 100 -- see "Time" above
local slack = 1000 -- milliseconds
local reply = {}

-- setExtra sets how many units of a log ZCARD does not count. It runs a command by run, and returns its reply.
local function setExtra(run, log, extra)
  return extra > 0 and run('ZADD', log, format('%.0f', -extra), '*') or run('ZREM', log, '*')
end

-- parse returns the groups that the arguments describe. A cutoff is the score up to which entries have expired. It is
-- never negative, because negative scores belong to marks.
local function parse()
  local groups, a, logs = {}, 2, 0
  if ARGV[a] == 'again' or ARGV[a] == 'known' then
    a, again, knownOnly = a + 1, true, ARGV[a] == 'known'
  end
  local function number()
    a = a + 1
    return ARGV[a - 1] + 0
  end
  local function limits(g, bounded, banning)
    g.max, g.window, g.cutoff, g.ban = {}, {}, {}, {}
    for i = 1, g.logs do
      if bounded then
        g.max[i] = number()
      end
      g.window[i] = number()
      g.cutoff[i] = format('%.0f', math.max(0, now - g.window[i]))
      g.ban[i] = banning and number() or 0
    end
  end
  while ARGV[a] do
    local g = { verb = ARGV[a], questions = 1, logs = 1, requests = 1, cost = 1 }
    a = a + 1
    if g.verb == 'one' then
      g.questions, g.charges = number(), true
      limits(g, true)
    elseif g.verb == 'admit' then
      g.questions, g.logs, g.requests, g.cost, g.charges = number(), number(), number(), number(), true
      g.provisional = number() == 1
      limits(g, true, true)
    elseif g.verb == 'peek' then
      g.questions, g.logs = number(), number()
      limits(g, true, true)
    elseif g.verb == 'settle' then
      g.logs, g.entry = number(), ARGV[a]
      a = a + 1
      g.requests, g.position, g.cost, g.actual = number(), number(), number(), number()
      limits(g, false)
    elseif g.verb == 'renew' then
      g.logs, g.members = number(), {}
      for i = 1, number() do
        g.members[i] = ARGV[a]
        a = a + 1
      end
      limits(g, false)
    elseif g.verb == 'reset' then
      g.logs = number()
    elseif g.verb == 'probe' then
      g.logs = 2
    else
      return nil, redis.error_reply('ERR exactlimit: unknown verb')
    end
    g.charges = g.charges and not knownOnly
    groups[#groups + 1] = g
    logs = logs + g.questions * g.logs
  end
  if keys == 0 or logs ~= keys then
    return nil, redis.error_reply('ERR exactlimit: the call has other logs than its questions')
  end
  return groups
end

-- Nearly all questions are simple: the verb is one, or admit with 1 limit, not provisional, and ban 0. Simple groups
-- that come first are counted here, and answered before most functions are made, because making functions takes
-- time.
local a, simple = 2, 0
while ARGV[a] == 'one' or
  ARGV[a] == 'admit' and ARGV[a + 2] == '1' and ARGV[a + 5] == '0' and ARGV[a + 8] == '0' do
  local following = a + (ARGV[a] == 'one' and 4 or 9)
  for i = a + 2, simple > 0 and following - 1 or 0 do
    local _ = ARGV[i] + 0 -- wrong arguments fail before the first group is answered
  end
  simple, a = simple + ARGV[a + 1], following
end
local groups, err
if simple == 0 or simple ~= keys or ARGV[a] then
  groups, err = parse()
  if not groups then
    return err -- before anything is written
  end
end

-- Simple questions are answered here in simple cases. The others get false for now, and are answered below: those about
-- logs that have no room for another request after this question, have other marks than *, have too many expired
-- entries, or fail a command; and all later questions about these logs, because order matters.
local unanswered, postponed, q = groups, nil, 0 -- postponed: the logs and the numbers of these questions
a = 2
while q < simple do
  local last, units, weighs, cost, max, window, cutoff = q + ARGV[a + 1], 1, '', 1, nil, nil, nil
  if ARGV[a] == 'one' then
    max, window, a = ARGV[a + 2] + 0, ARGV[a + 3] + 0, a + 4
  else
    cost, max, window = ARGV[a + 4] + 0, ARGV[a + 6] + 0, ARGV[a + 7] + 0
    units = ARGV[a + 3] * cost
    weighs = units > 1 and '*' .. (cost == 1 and ARGV[a + 3] or format('%.0f', units)) or ''
    a = a + 9
  end
  while q < last do
    q = q + 1
    local log, answer = KEYS[q], false
    repeat -- once, so that break ends the attempt
      if postponed and postponed[log] then
        break
      end
      local members, old, marks, extraBefore, extra = try('ZCARD', log), 0, 0, 0, 0
      if members ~= 0 then
        cutoff = cutoff or format('%.0f', window < now and now - window or 0)
        old = try('ZCOUNT', log, '-inf', cutoff)
        if type(members) ~= 'number' or type(old) ~= 'number' then
          break
        end
        marks = old > 0 and try('ZCOUNT', log, '-inf', '(0') or 0
      end
      local live, expired = members - old, old
      if marks ~= 0 then
        local score = marks == 1 and try('ZSCORE', log, '*')
        if type(score) ~= 'string' or score + 0 >= 0 or old > 10 then -- it would take long to return many entries
          break
        end
        extraBefore, expired = -score, old - 1
        local entries = live > 0 and expired > 0 and try('ZRANGE', log, 1, expired) or {}
        if live > 0 and #entries ~= expired then
          break
        end
        extra = live > 0 and extraBefore or 0 -- even if the mark is wrong, a log without live entries has no units
        for i = 1, #entries do
          extra = extra + 1 - (match(entries[i], '%*(%d+)$') or 1)
        end
      end
      local remaining = max - live - extra - units
      if remaining < cost or expired > budget then
        break
      end
      -- The mark * goes only after the new entry has come, and the expired entries go last, so that neither units nor
      -- the expiry are lost if the server rejects a command.
      local extraAfter = extra + units - 1
      if extraAfter > 0 and extraAfter ~= extraBefore and type(setExtra(try, log, extraAfter)) ~= 'number' then
        break
      end
      local entry = id .. '.' .. q .. weighs
      local added = try('ZADD', log, 'NX', stamp, entry) -- 0 if a retry has overtaken this call
      local kept = added
      if added == 1 and extraAfter <= 0 and extraBefore > 0 then
        kept = try('ZREM', log, '*')
      end
      if kept == 1 and live == 0 then
        kept = try('PEXPIRE', log, window / 1000 + slack)
      elseif kept == 1 and (live == 1 or expired > 0) then
        kept = type(try('PEXPIRE', log, 2 * window / 1000 + slack, 'GT')) == 'number' and 1
      end
      if kept ~= 1 or expired > 0 and try('ZREMRANGEBYSCORE', log, 0, cutoff) ~= expired then
        if added == 1 then
          try('ZREM', log, entry)
        end
        setExtra(try, log, extraBefore)
        break
      end
      budget, answer = budget - expired * (1 + marks), remaining
    until true
    reply[q] = answer
    if not answer then
      postponed = postponed or {}
      unanswered, postponed[log], postponed[q] = true, true, true
    end
  end
end
if not unanswered then
  return reply
end
groups = groups or parse()

-- weight returns how many units an entry weighs.
local function weight(member)
  return (match(member, '%*(%d+)$') or 1) + 0
end

-- marksOf returns the number of marks of a log, the number of units that ZCARD does not count, whether units may be
-- given back, the microseconds until the ban ends, and the mark of the ban. Without a ban, the last two are 0 and nil.
local function marksOf(log)
  local marks = call('ZRANGEBYSCORE', log, '-inf', '(0', 'WITHSCORES')
  local extra, provisional, ban, mark = 0, false, 0, nil
  for i = 1, #marks, 2 do
    if marks[i] == '*' then
      extra = -marks[i + 1]
    elseif marks[i] == '~' then
      provisional = true
    else
      ban, mark = -marks[i + 1] - now, marks[i]
    end
  end
  return #marks / 2, extra, provisional, ban, mark
end

-- setBan bans a log for ban microseconds from now.
local function setBan(log, ban, mark)
  call('ZADD', log, format('%.0f', -now - ban), mark)
end

-- clean removes as many expired entries from a log as the budget allows. The log has the given number of members, and
-- the scores of old members are up to the cutoff. It returns
--   - the units that are live, and the number of live entries
--   - the rank of the first live entry
--   - the number of units that ZCARD does not count
--   - whether units may be given back
--   - false if it has removed nothing, "all" if no expired entry is left, and otherwise "some"
--   - the microseconds until the ban ends, or 0
-- If there are no live entries, it returns false instead of "all", and deletes the log unless it is banned. If the
-- units of the remaining entries are not known, it returns nothing.
local function clean(log, cutoff, members, old)
  local marks, extra, provisional, ban, mark = marksOf(log)
  local expired = old - marks
  local live = members - old
  local longest = mark and string.sub(mark, 2) + 0 or 0
  local stepped = ban > longest -- the clock has stepped back
  ban = math.max(0, math.min(ban, longest))
  if live == 0 and ban == 0 then
    call('UNLINK', log)
    return 0, 0, 0, 0, false, false, 0
  end
  if stepped then
    setBan(log, ban, mark)
    if live == 0 then
      call('PEXPIRE', log, format('%.0f', ban / 1000 + slack))
    end
  elseif mark and ban == 0 then
    call('ZREM', log, mark)
    marks = marks - 1
  end
  if live == 0 and provisional then
    call('ZREM', log, '~')
    marks = marks - 1
  end
  local removed = math.min(expired, math.max(0, budget))
  if removed > 0 then
    budget = budget - removed - 8 -- the commands are as much work as 8 entries
    local before = extra
    for _, member in ipairs(extra > 0 and call('ZRANGE', log, marks, marks + removed - 1) or {}) do
      extra = extra - (weight(member) - 1)
    end
    if live == 0 and removed == expired then
      extra = 0 -- even if the mark is wrong
    end
    if extra ~= before then
      setExtra(call, log, extra)
      if extra == 0 then
        marks = marks - 1
      end
    end
    local done
    if removed == expired then
      done = try('ZREMRANGEBYSCORE', log, 0, cutoff)
    else
      done = try('ZREMRANGEBYRANK', log, marks, marks + removed - 1)
    end
    if done ~= removed then
      if extra ~= before then
        setExtra(try, log, before) -- or the units of the expired entries would be subtracted again
      end
      error(done)
    end
  end
  if live == 0 then
    return 0, 0, 0, 0, false, false, ban
  end
  if removed < expired and extra > 0 then
    return
  end
  local cleaned = expired > 0 and (removed == expired and 'all' or 'some')
  return live + extra, live, marks + expired - removed, extra, provisional, cleaned, ban
end

-- expiresIn returns the microseconds until the entry at a rank expires.
local function expiresIn(log, rank, window)
  -- Calculated in this order, each difference fits into the 53 bits that a number holds exactly, for any window.
  return window - (now - call('ZRANGE', log, rank, rank, 'WITHSCORES')[2])
end

-- keep sets the expiry of a log whose expired entries were removed, and to which none was added. See "Expiry".
local function keep(log, oldest, window)
  call('PEXPIRE', log, format('%.0f', (expiresIn(log, oldest, window) + window) / 1000 + slack), 'GT')
end

-- unitsExpireIn returns the microseconds until the given number of units has expired. The rank of the oldest live entry
-- is oldest.
local function unitsExpireIn(log, units, oldest, extra, window)
  if extra == 0 then
    return expiresIn(log, oldest + units - 1, window)
  end
  local step, score, entries = 4, nil, nil -- nearly always a few entries are enough
  repeat
    step = math.max(1, math.min(step, budget))
    entries = call('ZRANGE', log, oldest, oldest + step - 1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      units = units - weight(entries[i])
      score = entries[i + 1]
      if units <= 0 then
        break
      end
    end
    budget = budget - #entries / 2
    oldest, step = oldest + step, 4 * step
  until units <= 0 or budget <= 0 or #entries < 2
  return window - (now - score)
end

-- restamp moves entries from the future to the present. If the log is banned, its ban ends in ban microseconds, and
-- otherwise ban is 0.
local function restamp(log, window, ban)
  local maxMoved = math.max(1, math.floor(budget / 2)) -- moving an entry takes 2
  local members = call('ZRANGEBYSCORE', log, '(' .. stamp, '+inf', 'LIMIT', 0, maxMoved)
  budget = budget - 2 * #members
  for from = 1, #members, 500 do -- unpack cannot return more than a few thousand values
    local entries = {}
    for i = from, math.min(from + 499, #members) do
      entries[#entries + 1] = stamp
      entries[#entries + 1] = members[i]
    end
    call('ZADD', log, 'XX', unpack(entries))
  end
  if #members < maxMoved then -- nothing is left in the future
    call('PEXPIRE', log, format('%.0f', math.max(2 * window, ban) / 1000 + slack))
  end
end

-- name returns the member for an entry with an id and a number of units.
local function name(entry, units)
  return units == 1 and entry or entry .. '*' .. format('%.0f', units)
end

-- granted returns how many requests of a question an earlier attempt of this call has granted.
local function granted(g, at, entry)
  for n = again and g.requests or 0, 1, -1 do
    local member = name(entry, n * g.cost)
    for i = 1, g.logs do
      if call('ZSCORE', KEYS[at + i], member) then
        return n
      end
    end
  end
  return 0
end

-- unfinished returns the reply about logs whose units are not known. It is -1, or what an earlier attempt of this call
-- granted: after -1, the question would be asked again in a call with another id, and charged twice.
local function unfinished(g, known)
  if known == 0 then
    return -1
  end
  local reply = { known }
  for i = 1, g.logs do
    reply[#reply + 1] = 0
    reply[#reply + 1] = -1
    reply[#reply + 1] = g.window[i]
  end
  return reply
end

-- takeBack removes an entry that this call has added, if the server allows this.
local function takeBack(log, member, units)
  if try('ZREM', log, member) == 1 and units > 1 then
    local marked = try('ZSCORE', log, '*') -- its score may have changed after the entry was added
    if type(marked) == 'string' then
      setExtra(try, log, -marked - (units - 1))
    end
  end
end

-- fail takes back what the call has charged, and returns the error of the whole call.
local charged = {} -- entries that the functions below have added, and marks of bans
local function fail(text)
  for i = #charged, 1, -1 do
    local log, member, new, units = unpack(charged[i])
    if new then
      try('UNLINK', log)
    else
      takeBack(log, member, units)
    end
  end
  local q = 0
  for _, g in ipairs(groups) do
    for _ = 1, math.min(g.questions, simple - q) do
      q = q + 1
      if not (postponed and postponed[q]) then
        local units = g.requests * g.cost
        takeBack(KEYS[q], name(id .. '.' .. q, units), units)
      end
    end
  end
  return { err = text }
end

-- admit answers a question with the verb admit, one or peek. Its g.logs logs follow KEYS[at].
local function admit(g, at, entry)
  local members, units, live, oldest, extra, provisional, cleaned, ban = {}, {}, {}, {}, {}, {}, {}, {}
  g.cleaned = cleaned
  for i = 1, g.logs do
    members[i] = call('ZCARD', KEYS[at + i])
  end
  local grants = knownOnly and 0 or g.requests
  for i = 1, g.logs do
    local log = KEYS[at + i]
    local old = members[i] > 0 and call('ZCOUNT', log, '-inf', g.cutoff[i]) or 0
    units[i], live[i], oldest[i], extra[i], provisional[i], cleaned[i] = members[i], members[i], 0, 0, false, false
    ban[i] = 0
    if old > 0 then
      units[i], live[i], oldest[i], extra[i], provisional[i], cleaned[i], ban[i] =
        clean(log, g.cutoff[i], members[i], old)
      if not units[i] then
        for j = 1, i - 1 do
          if cleaned[j] == 'all' then
            keep(KEYS[at + j], oldest[j], g.window[j])
          end
        end
        return unfinished(g, granted(g, at, entry))
      end
    end
    local fits = ban[i] > 0 and 0 or math.floor((g.max[i] - units[i]) / g.cost)
    grants = math.min(grants, math.max(0, fits))
  end

  local charge = g.charges and grants * g.cost or 0
  local known, banned = granted(g, at, entry), false
  if known > 0 then
    grants, charge = known, 0
  end
  for i = 1, g.logs do
    local log, window = KEYS[at + i], g.window[i]
    if charge > 0 then
      local member, marks = name(entry, charge), {}
      -- If a retry has overtaken this call, the entry keeps its score. An entry that becomes the newest without PEXPIRE
      -- would break what "Expiry" relies on.
      if call('ZADD', log, 'NX', stamp, member) == 1 then
        charged[#charged + 1] = { log, member, live[i] == 0, charge }
        units[i] = units[i] + charge
        if charge > 1 then
          extra[i] = extra[i] + charge - 1
          marks = { format('%.0f', -extra[i]), '*' }
        end
      end
      if g.provisional then
        marks[#marks + 1] = -1
        marks[#marks + 1] = '~'
        provisional[i] = true
      end
      if marks[1] then
        call('ZADD', log, unpack(marks))
      end
      if live[i] == 0 then
        call('PEXPIRE', log, window / 1000 + slack)
      elseif live[i] == 1 or cleaned[i] then
        call('PEXPIRE', log, 2 * window / 1000 + slack, 'GT')
      end
    elseif cleaned[i] == 'all' then
      keep(log, oldest[i], window)
    end
    if g.ban[i] > 0 and ban[i] == 0 and g.charges and grants < g.requests and known == 0 and
      g.max[i] - units[i] < g.cost then
      ban[i] = g.ban[i]
      local mark = '!' .. format('%.0f', ban[i])
      setBan(log, ban[i], mark)
      call('PEXPIRE', log, ban[i] / 1000 + slack, 'GT')
      oldest[i] = oldest[i] + 1
      charged[#charged + 1] = { log, mark, false, 1 }
    end
    banned = banned or ban[i] > 0
  end
  if g.charges and g.logs == 1 and grants == g.requests and g.max[1] - units[1] >= g.cost then
    return g.max[1] - units[1]
  end

  local reply = { grants }
  for i = 1, g.logs do
    local log, window = KEYS[at + i], g.window[i]
    local remaining, retry, reset = g.max[i] - units[i], 0, 0
    if charge > 0 and (charge > 1 or g.provisional) then
      oldest[i] = call('ZCOUNT', log, '-inf', g.cutoff[i]) -- because a mark may be new
    end
    for _ = 1, 2 do -- twice if entries are moved from the future to the present
      if remaining < g.cost then
        retry = unitsExpireIn(log, g.cost - remaining, oldest[i], extra[i], window)
      elseif known > 0 and grants < g.requests then
        retry = 1 -- the earlier attempt has denied some requests, but there is room now
      end
      if charge > 0 then
        reset = window
      elseif units[i] > 0 then
        reset = expiresIn(log, -1, window)
      end
      if retry <= window and reset <= window then
        break
      end
      restamp(log, window, ban[i])
    end
    retry, reset = math.min(retry, window), math.min(reset, window)
    reply[#reply + 1] = remaining
    reply[#reply + 1] = provisional[i] and -retry or retry
    reply[#reply + 1] = reset
  end
  for i = 1, banned and g.logs or 0 do
    reply[#reply + 1] = ban[i]
  end
  return reply
end

-- lowerCharge lowers the charge of one request to what it cost, and returns the number of units given back. In each log
-- i, ZCARD does not count extra[i] units.
local function lowerCharge(g, at, own, extra)
  local ownMember, sharedMember = name(g.entry .. ':' .. g.position, g.cost), name(g.entry, g.requests * g.cost)
  local freed = 0
  for i = 1, g.logs do
    local log, entries = KEYS[at + i], {}
    local score, member = call('ZSCORE', log, sharedMember), sharedMember
    if score and g.requests > 1 then -- replace the entry by one for each of the other requests
      budget = budget - g.requests
      for position = 0, g.requests - 1 do
        if position ~= g.position then
          entries[#entries + 1] = score
          entries[#entries + 1] = name(g.entry .. ':' .. position, g.cost)
        end
      end
    elseif g.requests > 1 then
      score, member = call('ZSCORE', log, ownMember), ownMember
    end
    if score then
      if g.actual > 0 then
        entries[#entries + 1] = score
        entries[#entries + 1] = name(own .. '=', g.actual)
      end
      local live = call('ZRANGEBYSCORE', log, '(' .. g.cutoff[i], '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
      local oldestScore = live[live[1] == member and not entries[1] and 4 or 2] -- once the charge is lowered
      if oldestScore then
        call('ZADD', log, -1, '~') -- first, because ZREM must not run if the server rejects ZADD
        call('ZREM', log, member)
        if entries[1] then
          call('ZADD', log, unpack(entries))
        end
        setExtra(call, log, extra[i] - (g.cost - g.actual) - (#entries / 2 - 1))
        -- The oldest entry may have changed. See "Expiry".
        call('PEXPIRE', log, format('%.0f', (oldestScore - now + 2 * g.window[i]) / 1000 + slack), 'GT')
      elseif select(4, marksOf(log)) > 0 then -- no units are left, only a ban
        setExtra(call, log, extra[i] - (weight(member) - 1))
        call('ZREM', log, member, '~')
      else
        call('ZREM', log, member)
        call('UNLINK', log)
      end
      freed = freed + g.cost - g.actual
    end
  end
  return freed
end

-- raiseCharge charges what one request cost beyond its charge, and returns the number of units charged.
local function raiseCharge(g, at, own, extra)
  local more = g.actual - g.cost
  local member, members, added = name(own .. '+', more), {}, 0
  for i = 1, g.logs do
    if call('ZSCORE', KEYS[at + i], member) then
      return 0 -- this was done before
    end
    members[i] = call('ZCARD', KEYS[at + i])
    if members[i] + extra[i] + more > 9007199254740991 then -- numbers beyond this are not exact
      return 'exactlimit: the log would hold more units than can be counted'
    end
  end
  for i = 1, more > 0 and g.logs or 0 do
    local log = KEYS[at + i]
    call('ZADD', log, stamp, member)
    charged[#charged + 1] = { log, member, members[i] == 0, more }
    if more > 1 then
      setExtra(call, log, extra[i] + more - 1)
    end
    if members[i] == 0 then
      call('PEXPIRE', log, g.window[i] / 1000 + slack)
    else
      call('PEXPIRE', log, 2 * g.window[i] / 1000 + slack, 'GT')
    end
    added = added + more
  end
  return added
end

-- settle changes the charge of one request to what it cost.
local function settle(g, at)
  local less = g.actual < g.cost
  if less and g.requests > 1 and budget <= 0 then
    return -1 -- before any change, so that no question finds units given back in one log but not in another
  end
  local own, extra = g.requests > 1 and g.entry .. ':' .. g.position or g.entry, {}
  for i = 1, g.logs do
    extra[i] = -(call('ZSCORE', KEYS[at + i], '*') or 0)
  end
  return (less and lowerCharge or raiseCharge)(g, at, own, extra)
end

-- renew moves entries to the present.
local function renew(g, at)
  local renewed = 0
  for i = 2, g.logs do
    call('ZCARD', KEYS[at + i]) -- to fail before anything is written
  end
  for i = 1, g.logs do
    local log, window, entries, ahead = KEYS[at + i], g.window[i], {}, false
    for _, member in ipairs(g.members) do
      local score = call('ZSCORE', log, member)
      if score and score - g.cutoff[i] > 0 then
        entries[#entries + 1] = stamp
        entries[#entries + 1] = member
        ahead = ahead or score - now > 0
      end
    end
    if entries[1] then
      call('ZADD', log, 'XX', unpack(entries))
      call('PEXPIRE', log, format('%.0f', 2 * window / 1000 + slack), 'GT')
      if ahead then
        restamp(log, window, 0)
      end
    end
    renewed = renewed + #entries / 2
  end
  return renewed
end

-- reset deletes logs.
local function reset(g, at)
  if not knownOnly then
    call('UNLINK', unpack(KEYS, at + 1, at + g.logs))
  end
  return 0
end

-- probe runs every command that the other functions run, and changes nothing.
local function probe(_, at)
  local log = KEYS[at + 1]
  call('ZCARD', log)
  call('ZCOUNT', log, '(0', '(0')
  call('ZSCORE', log, '')
  call('ZRANGE', log, 1, 0)
  call('ZRANGEBYSCORE', log, '(0', '(0')
  call('ZADD', log, 'XX', 0, '')
  call('ZREM', log, '')
  call('ZREMRANGEBYSCORE', log, '(0', '(0')
  call('ZREMRANGEBYRANK', log, 1, 0)
  call('UNLINK', KEYS[at + 2])
  return 0
end

local answers = {
  one = admit, admit = admit, peek = admit, settle = settle, renew = renew, reset = reset, probe = probe,
}

-- damaged reports whether the content of a log has caused an error. Such an error comes from Lua and has no code, or is
-- about a number that was computed from the log.
local function damaged(text)
  return not string.find(text, '^%u+ ') or string.find(text, '^ERR value is not ') or
    string.find(text, '^ERR invalid expire ')
end

-- If the server rejects writes, it rejects this command, and the whole call fails. The command changes nothing, because
-- no log expires within a millisecond. After it, even a server without free memory accepts all writes, because the
-- script has begun to write. So no question fails halfway for lack of memory.
local writable = try('PEXPIRE', KEYS[1], 1, 'GT')
if type(writable) == 'table' then
  return fail(writable.err)
end

local at = 0
q = 0
for _, g in ipairs(groups) do
  for _ = 1, g.questions do
    q = q + 1
    if not reply[q] then
      local ok, answer = pcall(answers[g.verb], g, at, id .. '.' .. q)
      if not ok then
        for i = 1, g.cleaned and g.logs or 0 do -- see "Expiry"
          if g.cleaned[i] == 'all' then
            try('PEXPIRE', KEYS[at + i], format('%.0f', 2 * g.window[i] / 1000 + slack), 'GT')
          end
        end
        answer = type(answer) == 'table' and answer.err or tostring(answer)
        if not string.find(answer, '^WRONGTYPE ') then
          if not damaged(answer) then
            return fail(answer)
          end
          answer = 'exactlimit: the log is damaged: ' .. answer
        end
      end
      reply[q] = answer
    end
    at = at + g.logs
  end
end
return reply
