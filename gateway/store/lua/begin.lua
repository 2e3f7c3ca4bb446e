-- begin v1: create a task that a child of it needs before it is called itself, if it is new.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 facts   3 snapshot: JSON array of field, value, ...
-- Returns {facts}, those of the task as it is now

local now = clock(KEYS[1], ARGV[1])
local facts = redis.call('HGET', KEYS[2], 'facts')
if not facts then
  create_task(KEYS[2], KEYS[4], now, ARGV[2], ARGV[3])
end
return {facts or ARGV[2]}
