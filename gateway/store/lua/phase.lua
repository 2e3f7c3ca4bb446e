-- phase v1: start or end the execution of a phase, as the orchestrator says.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 start | end   3 phase   4 the act as JSON for the ledger's audit
-- Returns {'absent'} | {'unchanged', execution} | {'changed', execution, other}: `other` is the
--         phase that has calls in flight while this one starts, '' if none has
--
-- A start goes on with the execution that is open, unless the work has gone on to another phase
-- since: then it is the next one (backtracking). An end closes it; calls that are still open are
-- credited to it. Between a start and an end counts wall time as well, kept as wall_ms.

local now, phase = clock(KEYS[1], ARGV[1]), ARGV[3]
local is = redis.call('HMGET', KEYS[2], 'facts', 'phase', 'state', phase .. '.exec',
  phase .. '.closed', phase .. '.inflight')
if not is[1] then
  return {'absent'}
end
local number = num(is[4])
local record = 'x.' .. phase .. '.' .. int(number) .. '.'
local open = number > 0 and is[4] ~= is[5]

local function tell()
  tell_of_task('act', KEYS[2], now, ' ' .. int(NUMBER) .. ' -', ARGV[4])
end

if ARGV[2] == 'end' then
  if not open then
    return {'unchanged', int(number)}
  end
  close_execution(KEYS[2], phase, now)
  tell()
  return {'changed', int(number), ''}
end

local explicit = redis.call('HGET', KEYS[2], record .. 'explicit')
local moved_on = is[2] and is[2] ~= phase and num(is[6]) == 0 and not explicit
if open and not moved_on then
  return {'unchanged', int(number)}
end
local other = begin_beside(KEYS[2], phase)
record = 'x.' .. phase .. '.' .. int(number + 1) .. '.'
redis.call('HSET', KEYS[2], phase .. '.exec', int(number + 1), 'phase', phase,
  record .. 'started', int(now), record .. 'explicit', '1')
if is[3] == 'completed' then
  redis.call('HSET', KEYS[2], 'state', 'reopened', 'state_ms', int(now))
end
tell_of_execution(KEYS[2], now, phase, int(number + 1))
tell()
return {'changed', int(number + 1), other}
