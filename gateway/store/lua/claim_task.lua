-- claim_task v1: may a gateway key begin a task now? Asked before a task is created by a call.
--
-- KEYS  1 clock  2 tasks that the key has begun: zset of ids by when, ms
-- ARGV  1 now_ms or ''   2 task   3 most within an hour, '' = any   4 most open, '' = any
--       5 keys of tasks are this and the id
-- Returns {'claimed'} | {'hour'} | {'open'}
--
-- Kept are those begun within the hour and those still open; completed and killed ones are not.

local HOUR_MS, NEW_MS = 3600000, 60000
local now, open, recent = clock(KEYS[1], ARGV[1]), 0, 0
if redis.call('ZSCORE', KEYS[2], ARGV[2]) then
  return {'claimed'}
end
local begun = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #begun, 2 do
  local age = now - num(begun[i + 1])
  local is = redis.call('HMGET', ARGV[5] .. begun[i], 'facts', 'state')
  local is_open = is[1] and is[2] ~= 'completed' and is[2] ~= 'killed' or not is[1] and age < NEW_MS
  if age < HOUR_MS then
    recent = recent + 1
  elseif not is_open then
    redis.call('ZREM', KEYS[2], begun[i])
  end
  open = open + (is_open and 1 or 0)
end
if ARGV[3] ~= '' and recent >= num(ARGV[3]) then
  return {'hour'}
end
if ARGV[4] ~= '' and open >= num(ARGV[4]) then
  return {'open'}
end
redis.call('ZADD', KEYS[2], now, ARGV[2])
return {'claimed'}
