-- Loops of a task (core/loops.py). Put in front of the scripts that need it. Not a script of its own.
--
-- tg:{T}:task:<id>:loop is a list of the task's latest calls that were let through, newest first, each
-- `<ms>:<fingerprint>`; it is bounded, and gone once the window is over. It is named from the task's
-- key, not by KEYS: it is in the same slot. Fields of the task's hash:
--   loop                        when a loop stopped the task, ms; until an operator frees it
--   growing.calls .input        for how many calls the context has grown with little output, and to what
--
-- A plan's words: fingerprint (- where none tells repetitions), R|F, calls, window in ms; '' = nothing is looked for.

-- How many of a task's calls are looked at, by how many make a loop.
local function most_looked_at(calls)
  return math.max(100, math.min(500, 5 * calls))
end

-- Returns the plan with what stands in the store: repeats (this call included), stopped, growing.
local function read_loop(words, task_key, now)
  local fingerprint, effect, calls, window = string.match(words, '^(%S+) (%S+) (%S+) (%S+)$')
  local is = redis.call('HMGET', task_key, 'loop', 'growing.calls')
  local loop = {
    key = task_key .. ':loop', fingerprint = fingerprint, refuses = effect == 'R',
    calls = num(calls), window = num(window), repeats = 0, stopped = is[1], growing = num(is[2]),
  }
  if fingerprint ~= '-' then
    loop.repeats = 1
    for _, entry in ipairs(redis.call('LRANGE', loop.key, 0, most_looked_at(loop.calls) - 1)) do
      local at, known = string.match(entry, '^(%d+):(.*)$')
      if num(at) <= now - loop.window then
        break
      end
      if known == fingerprint then
        loop.repeats = loop.repeats + 1
      end
    end
  end
  return loop
end

local function is_loop(loop)
  return loop.refuses and (loop.stopped or loop.fingerprint ~= '-' and loop.repeats >= loop.calls)
end

-- Stop the task, and tell the ledger's audit.
local function stop_by_loop(loop, task_key, call_id, now)
  loop.stopped_now = 1
  redis.call('HSET', task_key, 'loop', int(now))
  tell_of_task('act', task_key, now, ' ' .. int(NUMBER) .. ' -',
    '{"action":"task.loop","actor":"tollgate","reason":"the same request ' .. int(loop.calls) ..
    ' times within ' .. int(loop.window / 1000) .. 's","details":{"call":"' .. call_id .. '"}}')
end

-- Note a call that is let through; its hash keeps the entry, so that a release can take it back.
local function note_call(loop, call_key, now)
  if loop.fingerprint == '-' then
    return
  end
  local entry = int(now) .. ':' .. loop.fingerprint
  redis.call('LPUSH', loop.key, entry)
  redis.call('LTRIM', loop.key, 0, most_looked_at(loop.calls) - 1)
  redis.call('PEXPIRE', loop.key, int(loop.window))
  redis.call('HSET', call_key, 'loop', entry)
end

-- Nothing of a call was sent: it is no repetition.
local function forget_call(call_key, task_key)
  local entry = redis.call('HGET', call_key, 'loop')
  if entry then
    redis.call('LREM', task_key .. ':loop', 1, entry)
  end
end

-- An operator has looked at the task: it is free, and counting begins anew.
local function end_loop(task_key)
  redis.call('HDEL', task_key, 'loop', 'growing.calls', 'growing.input')
  redis.call('DEL', task_key .. ':loop')
end

-- Take note of what a call used.
local function note_growth(task_key, input, output, little)
  local is = redis.call('HMGET', task_key, 'growing.calls', 'growing.input')
  local growing = 1
  if output >= little then
    growing = 0
  elseif input > num(is[2]) then
    growing = num(is[1]) + 1
  end
  redis.call('HSET', task_key, 'growing.calls', int(growing), 'growing.input', int(input))
end
