-- claim_task v1: may a gateway key begin a task now? Asked before a task is created by a call.
--
-- KEYS  1 clock  2 tasks that the key has begun: zset of ids by when, ms  3.. the tasks that were in it
-- ARGV  1 now_ms or ''   2 task   3 most within an hour, '' = any   4 most open, '' = any
--       5.. ids of KEYS 3.., in their order
-- Returns {'claimed'} | {'hour'} | {'open'}
--
-- Kept are those begun within the hour and those still open; completed and killed ones are not. What
-- came into the set since it was read is open: it is as old as a round trip.

local HOUR_MS, NEW_MS = 3600000, 60000
local now, open, recent = clock(KEYS[1], ARGV[1]), 0, 0
if redis.call('ZSCORE', KEYS[2], ARGV[2]) then
  return {'claimed'}
end
local key_of = {}
for place = 3, #KEYS do
  key_of[ARGV[place + 2]] = KEYS[place]
end

local function is_open(task, age)
  if not key_of[task] then
    return true
  end
  local is = redis.call('HMGET', key_of[task], 'facts', 'state')
  if not is[1] then
    return age < NEW_MS
  end
  return is[2] ~= 'completed' and is[2] ~= 'killed'
end

local begun = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #begun, 2 do
  local age = now - num(begun[i + 1])
  local still = is_open(begun[i], age)
  if age < HOUR_MS then
    recent = recent + 1
  elseif not still then
    redis.call('ZREM', KEYS[2], begun[i])
  end
  open = open + (still and 1 or 0)
end
if ARGV[3] ~= '' and recent >= num(ARGV[3]) then
  return {'hour'}
end
if ARGV[4] ~= '' and open >= num(ARGV[4]) then
  return {'open'}
end
redis.call('ZADD', KEYS[2], now, ARGV[2])
return {'claimed'}
