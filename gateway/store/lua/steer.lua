-- steer v1: kill, resume, complete or reopen a task; it holds with the next call on every gateway.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 kill | resume | complete | reopen
--       3 the act as JSON for the ledger's audit
--       4 idle_ms: only if the task was idle for so long, and none of its calls is open; '' = in any case
-- Returns {'absent'} | {'impossible', state}: killed and blocked tasks cannot be completed, and
--           only completed ones be reopened
--         | {'unchanged', state} | {'changed', state}
--
-- The rules are those of core/acts.py. Completing closes every execution; calls that are still open
-- are credited to the execution that admitted them.

local now = clock(KEYS[1], ARGV[1])
local is = redis.call('HMGET', KEYS[2], 'facts', 'state', 'before_kill', 'inflight', 'last',
  'created', 'state_ms', 'before_block')
if not is[1] then
  return {'absent'}
end
local state, verb = is[2] or 'open', ARGV[2]
local stopped = state == 'killed' or state == 'blocked'
if (verb == 'complete' or verb == 'reopen') and stopped or verb == 'reopen' and state == 'open' then
  return {'impossible', state}
end
if ARGV[4] ~= '' then
  local active = math.max(num(is[5]), num(is[6]), num(is[7]))
  if num(is[4]) > 0 or now - active < num(ARGV[4]) then
    return {'unchanged', state}
  end
end

local becomes = state
if verb == 'kill' then
  becomes = 'killed'
elseif verb == 'complete' then
  becomes = 'completed'
elseif verb == 'reopen' then
  becomes = 'reopened'
elseif state == 'killed' then
  becomes = is[3] or 'open'
elseif state == 'blocked' then
  becomes = is[8] or state
end
if becomes == state then
  return {'unchanged', state}
end

redis.call('HDEL', KEYS[2], 'state', 'before_kill')
if state == 'blocked' and verb == 'resume' then
  redis.call('HDEL', KEYS[2], 'before_block')
end
redis.call('HSET', KEYS[2], 'state_ms', int(now))
if becomes ~= 'open' then
  redis.call('HSET', KEYS[2], 'state', becomes)
end
if verb == 'kill' and state ~= 'open' then
  redis.call('HSET', KEYS[2], 'before_kill', state)
elseif verb == 'complete' then
  for phase in pairs(ORDER) do
    close_execution(KEYS[2], phase, now)
  end
end
tell_of_task('act', KEYS[2], now, ' ' .. int(NUMBER) .. ' ' .. becomes, ARGV[3])
return {'changed', becomes}
