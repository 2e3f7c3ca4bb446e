-- Grace: one last call after a trip (core/grace.py). Put in front of the scripts that need it. Not a
-- script of its own.
--
-- The hash of the task that stopped the call keeps in `grace` which stop the grace was given for: the
-- number of the episode, or `loop` and its time. The call's hash keeps the task's key in `grace`, and
-- that stop in `grace_stop`.
--
-- A plan's words: 1 if the call asks for it, or 0; allowance in budget tokens; ceiling and least output.

-- The name of the stop that holds a call, nil if there is no grace for it: a trip set before, or a loop.
local function stop_with_grace(stopped, loop)
  local scope = stopped.scope
  if stopped.code == 'loop_detected' then
    return loop.stopped and 'loop' .. loop.stopped or nil
  end
  return scope.trip and scope.trip == stopped.dimension and int(scope.episode) or nil
end

-- Returns the output that an allowance pays for beside an input, nil if that is too little.
local function graced_output(allowance, input, weight, ceiling, least)
  local room, output = allowance - input, ceiling
  if room >= 0 and weight > 0 then
    output = math.min(output, math.floor(room * 1000 / weight))
  end
  return room >= 0 and output >= least and output or nil
end

-- Returns offered | short | used | admitted, then the output that it may have, and the least; count if
-- it hangs on how many tokens the input really has.
local function ask_grace(words, key, name, input_low, input, weight)
  local asked, allowance, ceiling, least = string.match(words, '^(%S+) (%S+) (%S+) (%S+)$')
  if redis.call('HGET', key, 'grace') == name then
    return 'used'
  end
  if asked ~= '1' then
    return 'offered'
  end
  allowance, ceiling, least = num(allowance), num(ceiling), num(least)
  local output = graced_output(allowance, input, weight, ceiling, least)
  if output then
    return 'admitted', output, least
  end
  return graced_output(allowance, input_low, weight, ceiling, least) and 'count' or 'short'
end

-- Give the grace to a call that is being held, and tell the ledger's audit.
local function give_grace(key, name, call_key, call_id, now, tokens)
  redis.call('HSET', key, 'grace', name)
  redis.call('HSET', call_key, 'grace', key, 'grace_stop', name)
  NUMBER = NUMBER + 1
  redis.call('SET', KEYS[1], int(NUMBER))
  tell_of_task('act', key, now, ' ' .. int(NUMBER) .. ' -',
    '{"action":"grace.admit","actor":"tollgate","reason":"one last call after a stop",' ..
    '"details":{"call":"' .. call_id .. '","stop":"' .. name .. '","tokens":"' .. int(tokens) .. '"}}')
end

-- Nothing of a call was sent: the grace, if it was given to it, is for another one of the same stop.
local function give_back_grace(call_key)
  local is = redis.call('HMGET', call_key, 'grace', 'grace_stop')
  if is[1] and redis.call('HGET', is[1], 'grace') == is[2] then
    redis.call('HDEL', is[1], 'grace')
  end
end
