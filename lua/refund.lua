-- refund: takes units of an admission back out of the logs that it was charged to.
--
-- KEYS    the logs, all of one hash slot
-- ARGV    id         of the first unit of the call that charged them, see decide.lua
--         first      which of the call's units is the first to take back, from 0
--         count      and how many
--         for each log, in the order of KEYS:
--           window   in microseconds
--
-- Reply   how many entries were removed. None the second time.
--
-- Expiry  decide.lua relies on a log's expiry being two windows after its oldest entry. Who removes that one makes another
--         the oldest, which is from now at the latest.

local call = redis.call
local id, first, last = ARGV[1], ARGV[2] + 0, ARGV[2] + ARGV[3] - 1
local removed = 0
for i = 1, #KEYS do
  for from = first, last, 1000 do -- unpack cannot push more than a few thousand values
    local ids = {}
    for u = from, math.min(from + 999, last) do
      ids[#ids + 1] = u == 0 and id or id .. ':' .. u
    end
    removed = removed + call('ZREM', KEYS[i], unpack(ids))
  end
  call('PEXPIRE', KEYS[i], 2 * ARGV[3 + i] / 1000 + 1000, 'GT')
end
return removed
