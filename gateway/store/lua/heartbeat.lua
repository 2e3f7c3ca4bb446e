-- heartbeat v1: renew the leases of a worker's open calls, and raise holds that they outgrew.
--
-- KEYS  1 clock  2 leases, then for each call: call, task, ancestors...
-- ARGV  1 now_ms or ''   2 lease_ms, then for each call: id, number of its keys, tokens seen so far,
--       nano_usd of them, first phase (by order) that is held to the cumulative line, effects and
--       windows of spend limits as in reserve
-- Returns id, code, ... of calls that are over: a call of their task would be refused with that code
-- by now, what was seen of the open one counted in. Never refuses: what was used was used.

local now = clock(KEYS[1], ARGV[1])
local over, key = {}, 3

local function raise(first, last, phase, dimension, more)
  for i = first, last do
    redis.call('HINCRBY', KEYS[i], dimension .. '.H', int(more))
  end
  if phase ~= '' then
    redis.call('HINCRBY', KEYS[first], phase .. '.' .. dimension .. '.H', int(more))
  end
end

-- Whether spend limits of now refuse calls. What was `seen` of this call counts in the windows in which
-- it was let through, which may be over: then it does not count.
local function over_limits(json, counts_in, seen)
  for _, window in ipairs(read_windows(json, now) or {}) do
    local is_in = string.find(' ' .. counts_in .. ' ', ' ' .. window.key .. ' ', 1, true)
    for _, dimension in ipairs({'tokens', 'nano_usd'}) do
      local line = tonumber(window.lines[dimension])
      if line and in_window(window, dimension) + (is_in and seen[dimension] or 0) > line then
        return true
      end
    end
  end
  return false
end

-- Why a call of these tasks would be refused by now (core/shaping.py), '' if it would not. What was
-- `seen` of this call counts as settled. One that goes on by grace (lua/grace.lua) is over with a
-- kill only.
local function stop_code(call, counts_in, first, last, phase, seen, from, effects, limits)
  local scopes, watched = {}, {}
  local line = phase ~= '' and ORDER[phase] < from and 'R' or 'C'
  for i = first, last do
    local is = redis.call('HMGET', KEYS[i], 'state', 'trip', 'trip_code', 'completion',
      'tokens.L', 'tokens.C', 'tokens.R', 'tokens.S',
      'nano_usd.L', 'nano_usd.C', 'nano_usd.R', 'nano_usd.S', 'generation')
    local completes = is[4] and is[4] == (is[13] or '1')
    local exempt = i == first and completes and (phase == 'PR' or phase == 'MONITOR')
    scopes[#scopes + 1] = {state = is[1]}
    for at, d in ipairs({1, 3}) do
      if is[4 * at + 1] and string.sub(effects, d, d) == 'R' then
        local C, R = num(is[4 * at + 2]), num(is[4 * at + 3])
        watched[#watched + 1] = {
          trip_code = is[2] == DIMENSIONS[d] and is[3], C = C, R = R,
          S = num(is[4 * at + 4]) + seen[DIMENSIONS[d]],
          line = (line == 'R' or exempt) and R or C,
        }
      end
    end
  end
  for _, state in ipairs({'killed', 'blocked'}) do
    for _, scope in ipairs(scopes) do
      if scope.state == state then
        return 'task_' .. state
      end
    end
  end
  if redis.call('HEXISTS', call, 'grace') == 1 then
    return ''
  end
  for _, is in ipairs(watched) do
    if is.trip_code and is.S > is.C then
      return is.trip_code
    end
  end
  for _, is in ipairs(watched) do
    if is.S > is.R then
      return 'runaway_task'
    end
  end
  for _, is in ipairs(watched) do
    if is.S > is.line then
      return 'task_budget_exceeded'
    end
  end
  return over_limits(limits, counts_in, seen) and 'spend_limit_exceeded' or ''
end

for arg = 3, #ARGV, 7 do
  local id, last = ARGV[arg], key + num(ARGV[arg + 1]) - 1
  local call, seen = read_call(KEYS[key]), {}
  if call.state == 'held' then
    redis.call('ZADD', KEYS[2], now + num(ARGV[2]), id)
    for offset, dimension in ipairs({'tokens', 'nano_usd'}) do
      seen[dimension] = amount(ARGV[arg + 1 + offset])
      local more = seen[dimension] - call[dimension]
      if more > 0 then
        raise(key + 1, last, call.phase, dimension, more)
        if call.windows then
          raise_in_windows(call.windows, dimension, more)
        end
        redis.call('HINCRBY', KEYS[key], dimension, int(more))
      end
    end
    local code = stop_code(KEYS[key], call.windows or '', key + 1, last, call.phase, seen,
      num(ARGV[arg + 4]), ARGV[arg + 5], ARGV[arg + 6])
    if code ~= '' then
      over[#over + 1], over[#over + 2] = id, code
    end
  end
  key = last + 1
end
return over
