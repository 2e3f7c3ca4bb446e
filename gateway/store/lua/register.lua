-- register v1: create a task before its first call, or block it until it is registered correctly.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 facts   3 snapshot: JSON array of field, value, ...
--       4 digest of what was registered, '' if that was malformed: then the task is blocked
--       5 the act as JSON for the ledger's audit
-- Returns {'created'} | {'same'}: registered before with the same content
--         | {'conflict'}: it exists with other content, which never changes
--         | {'unblocked'}: it was blocked, and goes on as what is registered now
--         | {'blocked'}: malformed; the task refuses every call
--
-- A task that is there keeps its snapshot while it is blocked, and what it was stands in before_block;
-- a killed one is blocked behind its kill. One that was not there has nothing to keep: it becomes what
-- is registered, and so does the ledger's row of it.

local now = clock(KEYS[1], ARGV[1])
local is = redis.call('HMGET', KEYS[2], 'facts', 'state', 'registration', 'snapshot', 'version',
  'before_kill', 'before_block')
local malformed, killed = ARGV[4] == '', is[2] == 'killed'
local field = killed and 'before_kill' or 'state'
local state = (killed and is[6] or not killed and is[2]) or 'open'
local blocked = state == 'blocked'

local function enter(becomes)
  redis.call('HDEL', KEYS[2], 'before_block', field)
  if becomes ~= 'open' then
    redis.call('HSET', KEYS[2], field, becomes)
  end
  if not killed then
    redis.call('HSET', KEYS[2], 'state_ms', int(now))
  end
end

local function tell(becomes)
  tell_of_task('act', KEYS[2], now, ' ' .. int(NUMBER) .. ' ' .. (killed and 'killed' or becomes),
    ARGV[5])
end

if malformed then
  if blocked then
    return {'blocked'}
  end
  enter('blocked')
  if is[1] then
    redis.call('HSET', KEYS[2], 'before_block', state)
  else
    create_task(KEYS[2], KEYS[4], now, ARGV[2], ARGV[3], ' blocked')
  end
  tell('blocked')
  return {'blocked'}
end

if not is[1] then
  create_task(KEYS[2], KEYS[4], now, ARGV[2], ARGV[3])
  redis.call('HSET', KEYS[2], 'registration', ARGV[4])
  tell('open')
  return {'created'}
end

if blocked and not is[7] then
  local list, fields = cjson.decode(ARGV[3]), {}
  for i = 1, #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  drop_limits(KEYS[2], fields)
  enter('open')
  redis.call('HSET', KEYS[2], unpack(list))
  redis.call('HSET', KEYS[2], 'registration', ARGV[4], 'version', int(num(is[5]) + 1))
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
if not same then
  return {'conflict'}
end
if blocked then
  enter(is[7])
  tell(is[7])
  return {'unblocked'}
end
return {'same'}
