-- phase v1: start or end the execution of a phase, as the orchestrator says.
--
-- KEYS  1 clock  2 task  3 its list of overrides  4 task index  5 ledger stream
-- ARGV  1 now_ms or ''   2 start | end   3 phase   4 the act as JSON for the ledger's audit
-- Returns {'absent'} | {'unchanged', execution} | {'changed', execution, other}: `other` is the
--         phase that has calls in flight while this one starts, '' if none has
--
-- A start makes the phase the current one. It goes on with the execution that is open, unless that
-- was begun by a call and the work has gone on to another phase since: then it is the next one
-- (backtracking). From its start an execution is explicit: it is open until its end, or the task's,
-- is told. An end closes it; calls that are still open are credited to it. Between a start and an end
-- counts wall time as well, kept as wall_ms.

local now, phase = clock(KEYS[1], ARGV[1]), ARGV[3]
local is = redis.call('HMGET', KEYS[2], 'facts', 'phase', 'state', phase .. '.exec',
  phase .. '.closed', phase .. '.inflight', phase .. '.since')
if not is[1] then
  return {'absent'}
end
local number, inflight = num(is[4]), num(is[6])
local open = number > 0 and is[4] ~= is[5]

local idle_ms  -- of an execution that becomes explicit now

local function tell()
  local words = {' ' .. int(NUMBER), '-', int(number), idle_ms and int(idle_ms)}
  tell_of_task('act', KEYS[2], now, table.concat(words, ' '), ARGV[4])
end

if ARGV[2] == 'end' then
  if not open then
    return {'unchanged', int(number)}
  end
  close_execution(KEYS[2], phase, now)
  tell()
  return {'changed', int(number), ''}
end

local function open_next()
  number = number + 1
  local record = execution_record(phase, number)
  redis.call('HSET', KEYS[2], phase .. '.exec', int(number),
    record .. 'started', int(now), record .. 'explicit', '1')
  if is[3] == 'completed' then
    redis.call('HSET', KEYS[2], 'state', 'reopened', 'state_ms', int(now))
  end
  tell_of_execution(KEYS[2], now, phase, int(number))
end

-- Wall time counts from now on, beside what calls took before: all but that is idle.
local function make_explicit()
  local record = execution_record(phase, number)
  redis.call('HSETNX', KEYS[2], record .. 'started', int(now))
  local was = redis.call('HMGET', KEYS[2], record .. 'started', record .. 'latency_ms')
  local active = num(was[2]) + (inflight > 0 and now - num(is[7]) or 0)
  idle_ms = now - num(was[1]) - active
  redis.call('HSET', KEYS[2], record .. 'explicit', '1', record .. 'idle_ms', int(idle_ms))
end

local explicit = open and is_explicit(KEYS[2], phase, number)
if explicit and is[2] == phase then
  return {'unchanged', int(number)}
end
local other = begin_beside(KEYS[2], phase)
local moved_on = is[2] and is[2] ~= phase and inflight == 0
if not open or moved_on and not explicit then
  open_next()
elseif not explicit then
  make_explicit()
end
redis.call('HSET', KEYS[2], 'phase', phase)
tell()
return {'changed', int(number), other}
