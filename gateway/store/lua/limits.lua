-- Limits beside a task's own budgets: spend limits (core/spend_limits.py) and the velocity of a task
-- (core/velocity.py). Put in front of the scripts that need them. Not a script of its own.
--
-- A spend limit has one hash for each key, team, tenant or model and window:
--   tg:{T}:window:<policy>:<kind>:<name>@<window>    tokens.S, tokens.H, nano_usd.S, ... calls.H
-- Which window a call counts in is decided by its reserve and kept in the call's hash, so whatever
-- becomes of the call is posted there, exactly once. Names of windows therefore come from arguments and
-- from the call's hash, not from KEYS; all of them are in the tenant's slot.
--
-- A plan names windows as a JSON array of [key, start_ms, end_ms (0 = never), hard line of tokens,
-- nano_usd, calls ('' = nothing refuses), the lines that notice levels are a share of, by spaces (- =
-- none)]. The last are kept in the window as `told`, for the posts.

local WINDOW_FIELDS = {'tokens.S', 'tokens.H', 'nano_usd.S', 'nano_usd.H', 'calls.S', 'calls.H', 'told'}
local RATED = {'tokens', 'nano_usd', 'calls'}
local WINDOW_AT = {tokens = 1, nano_usd = 3, calls = 5}

-- Windows that are over are kept for so long: a charge may be corrected as long as its call is known.
local KEEP_WINDOW_MS = 26 * 3600 * 1000

-- Returns the windows of a plan with what stands in them, nil if one is not the window of now.
local function read_windows(json, now)
  local windows = {}
  for _, named in ipairs(json == '' and {} or cjson.decode(json)) do
    local key, starts, ends = named[1], named[2], named[3]
    if now < starts or (ends > 0 and now >= ends) then
      return nil
    end
    local v = redis.call('HMGET', key, unpack(WINDOW_FIELDS))
    local told_before = table.remove(v)
    local kind, name = string.match(key, ':window:[^:]*:([^:]*):([^:]*)$')
    windows[#windows + 1] = {
      key = key, ends = ends, kind = kind, name = name, is_window = true,
      lines = {tokens = named[4], nano_usd = named[5], calls = named[6]},
      values = v, reply = v, told = named[7], told_before = told_before,
    }
  end
  return windows
end

-- Settled and held of a window in one dimension.
local function in_window(window, dimension)
  local at = WINDOW_AT[dimension]
  return num(window.values[at]), num(window.values[at + 1])
end

-- The lines that notice levels are a share of, by dimension.
local function told_lines(told)
  local lines, at = {}, 0
  for line in string.gmatch(told, '[^ ]+') do
    at = at + 1
    lines[RATED[at]] = tonumber(line)
  end
  return lines
end

local function window_words(key)
  return 'window ' .. string.match(key, ':window:(.*)$')
end

-- Tell which totals of a window are at half of their line or beyond since that is a lower one.
local function note_lower_lines(window, now)
  if not window.told_before or window.told_before == window.told then
    return
  end
  local before, lines, words = told_lines(window.told_before), told_lines(window.told), {}
  for _, dimension in ipairs(RATED) do
    local S, line, was = in_window(window, dimension), lines[dimension], before[dimension]
    if line and (not was or line < was) and S > 0 and S + S >= line then
      words[#words + 1] = table.concat({window_words(window.key), dimension, int(S),
        was and int(was) or '-', int(line)}, ' ')
    end
  end
  tell_of_lower(KEYS[6], now, words)
end

-- Hold an amount in each of the windows; returns their keys, joined by spaces, for the call's hash.
local function hold_in_windows(windows, now, tokens, nano_usd, calls)
  local keys = {}
  for place, window in ipairs(windows) do
    local v = window.values
    note_lower_lines(window, now)
    redis.call('HSET', window.key, 'tokens.H', int(num(v[2]) + tokens),
      'nano_usd.H', int(num(v[4]) + nano_usd), 'calls.H', int(num(v[6]) + calls),
      'told', window.told)
    if window.ends > 0 then
      redis.call('PEXPIRE', window.key, int(window.ends - now + KEEP_WINDOW_MS))
    end
    keys[place] = window.key
  end
  return table.concat(keys, ' ')
end

-- Tell which totals of a window a charge took to half of their line or beyond.
local function note_window(key, told, v, used)
  local lines = told_lines(told)
  for _, dimension in ipairs(RATED) do
    if lines[dimension] then
      note_total(window_words(key), dimension, num(v[WINDOW_AT[dimension]]), used[dimension],
        lines[dimension])
    end
  end
end

-- Take a call's hold off its windows and add what it used. One that is gone is over for long.
local function post_in_windows(keys, held, used)
  for key in string.gmatch(keys, '[^ ]+') do
    if redis.call('EXISTS', key) == 1 then
      local v = redis.call('HMGET', key, unpack(WINDOW_FIELDS))
      note_window(key, v[7] or '', v, used)
      redis.call('HSET', key,
        'tokens.S', int(num(v[1]) + used.tokens), 'tokens.H', int(num(v[2]) - held.tokens),
        'nano_usd.S', int(num(v[3]) + used.nano_usd), 'nano_usd.H', int(num(v[4]) - held.nano_usd),
        'calls.S', int(num(v[5]) + used.calls), 'calls.H', int(num(v[6]) - held.calls))
    end
  end
end

local function raise_in_windows(keys, dimension, more)
  for key in string.gmatch(keys, '[^ ]+') do
    if redis.call('EXISTS', key) == 1 then
      redis.call('HINCRBY', key, dimension .. '.H', int(more))
    end
  end
end

-- Velocity: a hash behind the task's, <task>:rate:<window_ms>, with the number of the current span, what
-- is counted in it, and what was counted in the one before; in `refused` and `refused_last` when calls
-- were refused for velocity, ms: the first of an episode, and the last.
local RATE_FIELDS = {'at', 'tokens', 'nano_usd', 'calls', 'was.tokens', 'was.nano_usd', 'was.calls'}

local function rate_key(task, window_ms)
  return task .. ':rate:' .. window_ms
end

-- Returns what is counted in the current span and in the one before, each {tokens, nano_usd, calls},
-- and the current span's number.
local function rate_spans(key, now, window_ms)
  local v = redis.call('HMGET', key, unpack(RATE_FIELDS))
  local at = math.floor(now / window_ms)
  local age = v[1] and at - num(v[1]) or 2
  if age == 0 then
    return {num(v[2]), num(v[3]), num(v[4])}, {num(v[5]), num(v[6]), num(v[7])}, at
  end
  if age == 1 then
    return {0, 0, 0}, {num(v[2]), num(v[3]), num(v[4])}, at
  end
  return {0, 0, 0}, {0, 0, 0}, at
end

-- Returns tokens, nano_usd and calls of the window that ends now. What counts of the span before is a
-- share of what was counted, never of a line.
local function velocity(task, now, window_ms)
  local current, before = rate_spans(rate_key(task, window_ms), now, window_ms)
  local rest, used = window_ms - now % window_ms, {}
  for i = 1, 3 do
    used[i] = math.max(0, current[i] + math.floor(before[i] * rest / window_ms))
  end
  return used
end

local function count_in_rate(task, now, window_ms, tokens, nano_usd, calls)
  local key = rate_key(task, int(window_ms))
  local current, before, at = rate_spans(key, now, window_ms)
  redis.call('HSET', key, 'at', int(at), 'tokens', int(current[1] + tokens),
    'nano_usd', int(current[2] + nano_usd), 'calls', int(current[3] + calls),
    'was.tokens', int(before[1]), 'was.nano_usd', int(before[2]), 'was.calls', int(before[3]))
  redis.call('PEXPIRE', key, int(2 * window_ms))
end

-- Note that a call is refused for velocity. An episode lasts until nothing was refused for a window's
-- time. Returns when it began, ms: that tells it from the task's others.
local function note_too_fast(task, now, window_ms)
  local key = rate_key(task, int(window_ms))
  local was = redis.call('HMGET', key, 'refused', 'refused_last')
  local goes_on = was[1] and now - num(was[2]) < window_ms
  local since = goes_on and was[1] or int(now)
  redis.call('HSET', key, 'refused', since, 'refused_last', int(now))
  redis.call('PEXPIRE', key, int(2 * window_ms))
  return since
end

-- Nothing of a call was sent: it is none of the calls of the span in which it was let through.
local function uncount_in_rate(task, call)
  if not call.rate_ms then
    return
  end
  local key = rate_key(task, int(num(call.rate_ms)))
  local at = redis.call('HGET', key, 'at')
  local age = num(at) - math.floor(num(call.number) / 1000 / num(call.rate_ms))
  if at and age <= 1 then
    redis.call('HINCRBY', key, age == 1 and 'was.calls' or 'calls', -1)
  end
end

-- Keep with a call what it counts in, if it does in anything.
local function keep_limits(call_key, windows, rate_ms)
  if windows and windows ~= '' then
    redis.call('HSET', call_key, 'windows', windows)
  end
  if rate_ms and rate_ms ~= '' then
    redis.call('HSET', call_key, 'rate_ms', rate_ms)
  end
end

-- Post the end of a call to the windows and the velocity that its reserve chose.
local function post_limits(call, task, now, held, used)
  if call.windows then
    post_in_windows(call.windows, held, used)
  end
  if call.rate_ms and (used.tokens ~= 0 or used.nano_usd ~= 0) then
    count_in_rate(task, now, num(call.rate_ms), used.tokens, used.nano_usd, 0)
  end
end
