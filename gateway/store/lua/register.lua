-- register v1: create a task before its first call, or block it until it is registered correctly.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 facts   3 snapshot: JSON array of field, value, ...
--       4 digest of what was registered, '' if that was malformed: then the task is blocked
--       5 the act as JSON for the ledger's audit
-- Returns {'created'} | {'same'}: registered before with the same content
--         | {'conflict'}: it exists with other content, which never changes
--         | {'unblocked'}: it was blocked, and is what was registered from now on
--         | {'blocked'}: malformed; the task refuses every call
--         | {'exists'}: malformed, and the task is there already: nothing was changed
--
-- The ledger is told of a task only once it is what it stays.

local now = clock(KEYS[1], ARGV[1])
local is = redis.call('HMGET', KEYS[2], 'facts', 'state', 'registration', 'snapshot', 'version')
local malformed, blocked = ARGV[4] == '', is[2] == 'blocked'

local function tell(state)
  tell_of_task('act', KEYS[2], now, ' ' .. int(NUMBER) .. ' ' .. state, ARGV[5])
end

if malformed then
  if is[1] then
    return {blocked and 'blocked' or 'exists'}
  end
  redis.call('HSET', KEYS[2], 'created', int(now), unpack(cjson.decode(ARGV[3])))
  redis.call('HSET', KEYS[2], 'state', 'blocked', 'state_ms', int(now))
  redis.call('ZADD', KEYS[4], now, string.match(KEYS[2], '[^:]*$'))
  tell('blocked')
  return {'blocked'}
end

if not is[1] then
  create_task(KEYS[2], KEYS[4], now, ARGV[2], ARGV[3])
  redis.call('HSET', KEYS[2], 'registration', ARGV[4])
  tell('open')
  return {'created'}
end

if blocked then
  local list, fields = cjson.decode(ARGV[3]), {}
  for i = 1, #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  drop_limits(KEYS[2], fields)
  redis.call('HDEL', KEYS[2], 'state')
  redis.call('HSET', KEYS[2], unpack(list))
  redis.call('HSET', KEYS[2], 'registration', ARGV[4], 'state_ms', int(now),
    'version', int(num(is[5]) + 1))
  if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('HSET', KEYS[2], 'expires', int(now))  -- the next call puts overrides in force anew
  end
  tell_of_task('task', KEYS[2], now, '', ARGV[3])
  tell('open')
  return {'unblocked'}
end

local function snapshot_of(json)
  local list = cjson.decode(json)
  for i = 1, #list, 2 do
    if list[i] == 'snapshot' then
      return list[i + 1]
    end
  end
end

local same = is[3] == ARGV[4]
if not is[3] then  -- created by its first call
  same = is[1] == ARGV[2] and is[4] == snapshot_of(ARGV[3])
end
return {same and 'same' or 'conflict'}
