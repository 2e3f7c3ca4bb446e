-- Shared by all scripts; put in front of each when it is loaded. Not a script of its own.
--
-- ORDER (phase name -> place in working order) is put in front of this file by the loader, from the
-- same enum that everything else uses.
--
-- Units: tokens, milliseconds, nano-dollars, calls; all integers below 2^53, the largest that a Lua
-- number holds exactly (about $9.0M per counter). Integers are written with %.0f. Lua adds,
-- subtracts and compares; it never multiplies by a threshold: lines come as integers from outside.

local DIMENSIONS = {'tokens', 'latency_ms', 'nano_usd', 'calls'}

-- The most that one call is taken to use or hold: ten trillion tokens, $10,000. What is more is a
-- mangled figure, and must not push a total out of the exact range.
local MOST = 1e13

local function int(number)
  return string.format('%.0f', number)
end

local function num(value)
  return tonumber(value or 0) or 0
end

local function amount(value)
  return math.max(0, math.min(num(value), MOST))
end

-- The number of this act: microseconds of the clock, more by one than the last act's at least. So
-- numbers are in the order of what they number, and go on rising after a loss of the store's data.
local NUMBER

-- Milliseconds by the server's clock, never running back. `given` replaces the clock in tests.
local function clock(key, given)
  local now = tonumber(given)
  if now then
    now = now * 1000
  else
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
  end
  NUMBER = math.max(now, num(redis.call('GET', key)) + 1)
  redis.call('SET', key, int(NUMBER))
  return math.floor(NUMBER / 1000)
end

-- A longer time than a day is taken for none (EC8): a clock was set, or something hung. The longest
-- that this act left out is told; it stops nobody.
local DAY_MS, LEFT_OUT = 86400000, 0

local function elapsed(now, since)
  local ms = math.max(0, now - num(since))
  if ms > DAY_MS then
    LEFT_OUT = math.max(LEFT_OUT, ms)
    return 0
  end
  return ms
end

-- The ledger's stream. What happened is told in the script that made it happen, one entry each:
--
--   e  words joined by spaces: kind, now_ms, the task's key behind the tenant's prefix, then by kind
--        settled|expired|released|refused  call id, its number, that of its reserve (0 = none),
--             phase or -, execution, tokens, nano_usd charged, tokens, nano_usd held, and the
--             latency that it added, ms: task, ancestors, phase, joined by commas
--        task       nothing more, or `blocked`: it is not yet what it is to be
--        override   its number                      execution  phase, number, limits in force:
--                                                              tokens, latency_ms, nano_usd or -,
--                                                              generation of the task's life
--        act        its number, the task's state from then on; `-` for a phase, a key, files;
--                   of a phase its execution, and idle_ms if that was open when it was started
--        corrected  call id, its number, tokens and nano_usd (- = unknown) that are charged now
--        lowered    nothing more: limits are lower from now on, by an override or the end of one, or
--                   those of the windows that the task's call counts in, by other rules
--        record     its number; not of a task but of a key or a session: what there is of it from now on
--   a  about, o  outcome: JSON of the worker's (core/call_facts.py)
--   p  totals that a charge may have taken over a notice level: task, phase or window, name, dimension,
--      total before, total after, limit with grants; and again for each. Of `lowered` totals that may
--      be over a level by their lower limit: total, limit before (- = none), limit; both with grants
--   s  why it was refused, b  the balances then (reserve.lua)
--   w  keys of the windows of spend limits that a call counts in, joined by spaces
--   g  generation of the task's life, if it is not the first
--   k  JSON of a key or a binding, '' if there is none any more
--   d  JSON: a task's fields, the override, or who did what and why (core/acts.py)
--
-- Entries are read by gateway/ledger/entries.py, and trimmed once SQL has them.

-- Where the stream's key is among KEYS; it ends in 'ledger'.
local STREAM = 5

local function behind_prefix(key)
  return string.sub(key, #KEYS[STREAM] - 5)
end

local function tell_of_task(kind, key, now, words, data)
  redis.call('XADD', KEYS[STREAM], '*',
    'e', kind .. ' ' .. int(now) .. ' ' .. behind_prefix(key) .. words, 'd', data)
end

local function tell_of_execution(key, now, phase, execution)
  local is = redis.call('HMGET', key, phase .. '.tokens.L', phase .. '.latency_ms.L',
    phase .. '.nano_usd.L', 'generation')
  tell_of_task('execution', key, now, ' ' .. phase .. ' ' .. execution .. ' ' ..
    (is[1] or '-') .. ' ' .. (is[2] or '-') .. ' ' .. (is[3] or '-') .. ' ' .. (is[4] or '1'), '')
end

-- The words of an entry about a call. `charged` and `held` have tokens and nano_usd as text.
local function call_words(kind, call_id, now, number, call, phase, execution, charged, held, waits)
  return table.concat({kind, int(now), behind_prefix(KEYS[6]), call_id, number, call.number,
    phase == '' and '-' or phase, execution, charged.tokens, charged.nano_usd, held.tokens,
    held.nano_usd, waits}, ' ')
end

-- Create a task from its snapshot, a JSON array of field, value, ...; index it unless it is the
-- bucket of untagged calls. `words` are for the ledger's entry, if it has any.
local function create_task(key, index, now, facts, snapshot, words)
  redis.call('HSET', key, 'created', int(now), unpack(cjson.decode(snapshot)))
  if facts ~= 'untagged' then
    redis.call('ZADD', index, now, string.match(key, '[^:]*$'))
  end
  tell_of_task('task', key, now, words or '', snapshot)
end

-- The beginning of the names of an execution's fields.
local function execution_record(phase, number)
  return 'x.' .. phase .. '.' .. int(number) .. '.'
end

-- Whether somebody said when it began: then it is open until somebody says that it ended.
local function is_explicit(key, phase, number)
  return redis.call('HEXISTS', key, execution_record(phase, number) .. 'explicit') == 1
end

-- Wall time of an explicit execution at `now`: since it started, but for what it was idle before
-- its explicit start, if a call had begun it.
local function wall_time(now, started, idle_ms)
  return elapsed(now, num(started) + num(idle_ms))
end

-- Close the execution of a phase that is open: the next call, or an explicit start, opens another.
-- Returns its number, nil if none was open.
local function close_execution(key, phase, now)
  local is = redis.call('HMGET', key, phase .. '.exec', phase .. '.closed')
  if not is[1] or is[1] == is[2] then
    return nil
  end
  local record = execution_record(phase, num(is[1]))
  redis.call('HSET', key, phase .. '.closed', is[1], record .. 'ended', int(now))
  local begun = redis.call('HMGET', key, record .. 'explicit', record .. 'started',
    record .. 'idle_ms')
  if begun[1] then
    redis.call('HSET', key, record .. 'wall_ms', int(wall_time(now, begun[2], begun[3])))
  end
  return is[1]
end

-- The first phase in working order, but for `phase`, that has calls in flight; '' if none has.
local function another_at_work(key, phase)
  local names, fields, first = {}, {}, ''
  for name in pairs(ORDER) do
    names[#names + 1], fields[#fields + 1] = name, name .. '.inflight'
  end
  for place, inflight in ipairs(redis.call('HMGET', key, unpack(fields))) do
    local name = names[place]
    if num(inflight) > 0 and name ~= phase and (first == '' or ORDER[name] < ORDER[first]) then
      first = name
    end
  end
  return first
end

-- Count it if work on `phase` begins while another has calls in flight. Returns that, '' if none has.
local function begin_beside(key, phase)
  local other = another_at_work(key, phase)
  if other ~= '' then
    redis.call('HINCRBY', key, 'parallel', 1)
  end
  return other
end

-- Totals that this act took to half of their limit or beyond, as words for the ledger (`p`).
local PRESSURE = {}

-- What a total is of: `task` and its id, or `phase` and its name.
local function scope_words(key, prefix)
  if prefix ~= '' then
    return 'phase ' .. string.sub(prefix, 1, -2)
  end
  return 'task ' .. string.match(key, '[^:]*$')
end

local function note_total(scope, dimension, before, used, limit)
  local after = before + used
  if used > 0 and before < limit and after + after >= limit then
    PRESSURE[#PRESSURE + 1] = table.concat(
      {scope, dimension, int(before), int(after), int(limit)}, ' ')
  end
end

local function note_pressure(key, prefix, dimension, before, used, limit)
  if used > 0 and before < limit then
    note_total(scope_words(key, prefix), dimension, before, used, limit)
  end
end

-- Tell which totals may be over a notice level by their lower limit; nothing where there are none.
local function tell_of_lower(key, now, totals)
  if #totals > 0 then
    redis.call('XADD', KEYS[STREAM], '*', 'e', 'lowered ' .. int(now) .. ' ' .. behind_prefix(key),
      'p', table.concat(totals, ' '))
  end
end

-- The fields of an entry about a call, with what only some have: the windows that it counts in, the
-- generation of its task's life, the totals that it moved.
local function with_more(fields, windows, generation)
  local more = {w = windows, g = generation, p = #PRESSURE > 0 and table.concat(PRESSURE, ' ') or nil}
  for name, text in pairs(more) do
    fields[#fields + 1], fields[#fields + 2] = name, text
  end
  return unpack(fields)
end

-- Tell the ledger what there is of a gateway key or a session from now on, and who did it, if anybody
-- did. `document` is '' if there is nothing any more.
local function tell_of_record(stream, now, subject, document, act)
  redis.call('XADD', stream, '*', 'e', 'record ' .. int(now) .. ' ' .. subject .. ' ' .. int(NUMBER),
    'k', document, 'd', act)
end

-- Take a call's hold off one scope and add what it used. A scope is a task's hash with prefix '',
-- or one of its phases with prefix 'PHASE.'. `open` tells whether the call still counts as in
-- flight. Returns tokens settled before, tokens settled after, and the latency added.
local function post(key, prefix, now, open, held, used)
  local tokens, nano_usd, calls = prefix .. 'tokens.', prefix .. 'nano_usd.', prefix .. 'calls.'
  local inflight_field, latency_field = prefix .. 'inflight', prefix .. 'latency_ms.S'
  local was = redis.call('HMGET', key, inflight_field, prefix .. 'since', latency_field,
    tokens .. 'S', tokens .. 'H', nano_usd .. 'S', nano_usd .. 'H', calls .. 'S', calls .. 'H',
    tokens .. 'L', tokens .. 'G', nano_usd .. 'L', nano_usd .. 'G')
  local inflight, waited = num(was[1]), 0
  if open then
    inflight = inflight - 1
    if inflight == 0 then
      waited = elapsed(now, was[2])
    end
  end
  local before = num(was[4])
  local after = before + used.tokens
  redis.call('HSET', key, inflight_field, int(inflight), latency_field, int(num(was[3]) + waited),
    tokens .. 'S', int(after),
    tokens .. 'H', int(num(was[5]) - held.tokens),
    nano_usd .. 'S', int(num(was[6]) + used.nano_usd),
    nano_usd .. 'H', int(num(was[7]) - held.nano_usd),
    calls .. 'S', int(num(was[8]) + used.calls),
    calls .. 'H', int(num(was[9]) - held.calls))
  note_pressure(key, prefix, 'tokens', before, used.tokens, num(was[10]) + num(was[11]))
  note_pressure(key, prefix, 'nano_usd', num(was[6]), used.nano_usd, num(was[12]) + num(was[13]))
  return before, after, waited
end

-- A task's total as it stands: with latency, the time since its first open call began is part of it.
local function standing(key, dimension, now)
  local is = redis.call('HMGET', key, dimension .. '.S', 'inflight', 'since')
  if dimension == 'latency_ms' and num(is[2]) > 0 then
    return num(is[1]) + elapsed(now, is[3])
  end
  return num(is[1])
end

local function end_trip(key)
  redis.call('HDEL', key, 'trip', 'trip_code', 'trip_ms')
end

-- End a trip whose total is no longer above its cumulative line: a correction or a grant freed it.
local function end_trip_if_freed(key, now)
  local trip = redis.call('HGET', key, 'trip')
  if not trip then
    return
  end
  if standing(key, trip, now) <= num(redis.call('HGET', key, trip .. '.C')) then
    end_trip(key)
  end
end

-- Take off the limits that are not among `kept`: what is there is compared with.
local function drop_limits(key, kept)
  local gone = {}
  local function forget(name, letters)
    for _, letter in ipairs(letters) do
      if not kept[name .. letter] then
        gone[#gone + 1] = name .. letter
      end
    end
  end
  for _, dimension in ipairs(DIMENSIONS) do
    forget(dimension, {'.L', '.G', '.C', '.R', '.A'})
    for phase in pairs(ORDER) do
      forget(phase .. '.' .. dimension, {'.L', '.C'})
    end
  end
  redis.call('HDEL', key, 'expires', unpack(gone))
end

-- Post to a task, its ancestors (KEYS from `first` on) and the phase execution that admitted it.
-- What was used is negative where an earlier charge is corrected; that may end a trip. Returns the
-- task's tokens before and after, and the latency added to task, ancestors and phase.
local function post_everywhere(first, phase, execution, now, open, held, used)
  local before, after, task_waited = post(KEYS[first], '', now, open, held, used)
  local waits = int(task_waited)
  for i = first + 1, #KEYS do
    local _, _, waited = post(KEYS[i], '', now, open, held, used)
    waits = waits .. ',' .. int(waited)
  end
  if phase ~= '' then
    local _, _, waited = post(KEYS[first], phase .. '.', now, open, held, used)
    waits = waits .. ',' .. int(waited)
    local record = execution_record(phase, num(execution))
    redis.call('HINCRBY', KEYS[first], record .. 'tokens', int(used.tokens))
    if waited > 0 then
      redis.call('HINCRBY', KEYS[first], record .. 'latency_ms', int(waited))
    end
    redis.call('HSET', KEYS[first], record .. 'ended', int(now), phase .. '.last', int(now))
  end
  if used.tokens < 0 or used.nano_usd < 0 or used.calls < 0 then
    for i = first, #KEYS do
      end_trip_if_freed(KEYS[i], now)
    end
  end
  return before, after, waits
end

-- Read what a call holds, or has been charged if it expired.
local function read_call(key)
  local is = redis.call('HMGET', key, 'state', 'phase', 'exec', 'tokens', 'nano_usd', 'number',
    'model', 'windows', 'rate_ms')
  return {
    state = is[1] or 'unknown', phase = is[2] or '', exec = is[3] or '0',
    tokens = num(is[4]), nano_usd = num(is[5]), number = is[6] or '0', model = is[7] or '',
    windows = is[8] or nil, rate_ms = is[9] or nil,
    words = {tokens = is[4] or '0', nano_usd = is[5] or '0'},
  }
end

-- Leave a tombstone: a later command for the same call finds it and does nothing.
local function bury(key, leases, call_id, state, keep_ms)
  redis.call('ZREM', leases, call_id)
  redis.call('DEL', key)
  redis.call('HSET', key, 'state', state)
  redis.call('PEXPIRE', key, keep_ms)
end
