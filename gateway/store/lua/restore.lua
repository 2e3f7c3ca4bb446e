-- restore v1: give a task back what the store has lost of it and the ledger knows. Adds to what is
-- there, because calls go on meanwhile; never takes away.
--
-- KEYS  1 clock  2 task index  3 task  4 its list of overrides
-- ARGV  1 now_ms or ''   2 id for the index, '' for the bucket of untagged calls
--       3 created, ms    4 version of the limits that this was made from, '' if there was no task
--       5 fields of snapshot and limits, 6 overrides, 7 fields to add to, 8 fields for where there
--         are none, 9 fields of which the larger is right: JSON arrays of field, value, ...; 5 is
--         [] to leave limits and overrides as they are
--      10 trip: JSON array of dimension, code, time in ms, or []
-- Returns {'conflict'} if the limits were changed meanwhile, or {'restored'}

local key, now = KEYS[3], clock(KEYS[1], ARGV[1])
if (redis.call('HGET', key, 'version') or '') ~= ARGV[4] then
  return {'conflict'}
end

local function pairs_of(json)
  local list, at = cjson.decode(json), -1
  return function()
    at = at + 2
    return list[at], list[at + 1]
  end
end

local limits = cjson.decode(ARGV[5])
if #limits > 0 then
  local kept = {}
  for i = 1, #limits, 2 do
    kept[limits[i]] = limits[i + 1]
  end
  drop_limits(key, kept)
  redis.call('HSET', key, 'created', ARGV[3], unpack(limits))
  redis.call('HINCRBY', key, 'version', 1)
  local overrides = cjson.decode(ARGV[6])
  if #overrides > 0 then
    redis.call('DEL', KEYS[4])
    redis.call('RPUSH', KEYS[4], unpack(overrides))
  end
end
for field, amount in pairs_of(ARGV[7]) do
  redis.call('HINCRBY', key, field, amount)
end
for field, value in pairs_of(ARGV[8]) do
  redis.call('HSETNX', key, field, value)
end
for field, value in pairs_of(ARGV[9]) do
  if num(redis.call('HGET', key, field)) < num(value) then
    redis.call('HSET', key, field, value)
  end
end
local trip = cjson.decode(ARGV[10])
if trip[1] and redis.call('HEXISTS', key, 'trip') == 0 then
  redis.call('HSET', key, 'trip', trip[1], 'trip_code', trip[2], 'trip_ms', trip[3])
end
end_trip_if_freed(key, now)
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
end
return {'restored'}
