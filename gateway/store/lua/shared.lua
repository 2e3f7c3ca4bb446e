-- Shared by all scripts; put in front of each when it is loaded. Not a script of its own.
--
-- ORDER (phase name -> place in working order) is put in front of this file by the loader, from the
-- same enum that everything else uses.
--
-- Units: tokens, milliseconds, nano-dollars, calls; all integers below 2^53, the largest that a Lua
-- number holds exactly (about $9.0M per counter). Integers are written with %.0f. Lua adds,
-- subtracts and compares; it never multiplies by a threshold: lines come as integers from outside.

local DIMENSIONS = {'tokens', 'latency_ms', 'nano_usd', 'calls'}

local function int(number)
  return string.format('%.0f', number)
end

local function num(value)
  return tonumber(value or 0) or 0
end

-- Milliseconds by the server's clock, never running back. `given` replaces the clock in tests.
local function clock(key, given)
  local now = tonumber(given)
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  local last = num(redis.call('GET', key))
  if now <= last then
    return last
  end
  redis.call('SET', key, int(now))
  return now
end

-- Take a call's hold off one scope and add what it used. A scope is a task's hash with prefix '',
-- or one of its phases with prefix 'PHASE.'. `open` tells whether the call still counts as in
-- flight. Returns tokens settled before, tokens settled after, and the latency added.
local function post(key, prefix, now, open, held, used)
  local was = redis.call('HMGET', key,
    prefix .. 'inflight', prefix .. 'since', prefix .. 'latency_ms.S',
    prefix .. 'tokens.S', prefix .. 'tokens.H', prefix .. 'nano_usd.S', prefix .. 'nano_usd.H',
    prefix .. 'calls.S', prefix .. 'calls.H')
  local inflight, waited = num(was[1]), 0
  if open then
    inflight = inflight - 1
    if inflight == 0 then
      waited = math.max(0, now - num(was[2]))
    end
  end
  local before = num(was[4])
  local after = before + used.tokens
  redis.call('HSET', key,
    prefix .. 'inflight', int(inflight),
    prefix .. 'latency_ms.S', int(num(was[3]) + waited),
    prefix .. 'tokens.S', int(after),
    prefix .. 'tokens.H', int(num(was[5]) - held.tokens),
    prefix .. 'nano_usd.S', int(num(was[6]) + used.nano_usd),
    prefix .. 'nano_usd.H', int(num(was[7]) - held.nano_usd),
    prefix .. 'calls.S', int(num(was[8]) + used.calls),
    prefix .. 'calls.H', int(num(was[9]) - held.calls))
  return before, after, waited
end

-- Post to a task, its ancestors (KEYS from `first` on) and the phase execution that admitted it.
local function post_everywhere(first, phase, execution, now, open, held, used)
  local before, after = post(KEYS[first], '', now, open, held, used)
  for i = first + 1, #KEYS do
    post(KEYS[i], '', now, open, held, used)
  end
  if phase ~= '' then
    local _, _, waited = post(KEYS[first], phase .. '.', now, open, held, used)
    local record = 'x.' .. phase .. '.' .. execution .. '.'
    redis.call('HINCRBY', KEYS[first], record .. 'tokens', int(used.tokens))
    redis.call('HINCRBY', KEYS[first], record .. 'latency_ms', int(waited))
    redis.call('HSET', KEYS[first], record .. 'ended', int(now), phase .. '.last', int(now))
  end
  return before, after
end

-- End a trip whose total is no longer above its cumulative line: a correction or a grant freed it.
local function end_trip_if_freed(key)
  local trip = redis.call('HGET', key, 'trip')
  if not trip or trip == '' then
    return
  end
  local is = redis.call('HMGET', key, trip .. '.S', trip .. '.C')
  if num(is[1]) <= num(is[2]) then
    redis.call('HDEL', key, 'trip', 'trip_code', 'trip_ms')
  end
end

-- Read what a call holds, or has been charged if it expired.
local function read_call(key)
  local is = redis.call('HMGET', key, 'state', 'phase', 'exec', 'tokens', 'nano_usd')
  return {
    state = is[1] or 'unknown', phase = is[2] or '', exec = is[3] or '0',
    tokens = num(is[4]), nano_usd = num(is[5]),
  }
end

-- Leave a tombstone: a later command for the same call finds it and does nothing.
local function bury(key, leases, call_id, state, keep_ms)
  redis.call('ZREM', leases, call_id)
  redis.call('DEL', key)
  redis.call('HSET', key, 'state', state)
  redis.call('PEXPIRE', key, keep_ms)
end
